/* A relay with all that the kernel offers a process: the practical limit.
 *
 *     relay_batched PORT
 *
 * recvmmsg with UDP_GRO; all datagrams of a batch with one destination and one size are sent as
 * one message (UDP_SEGMENT), and all messages with one sendmmsg. The order within a flow is
 * kept. */

#include "relay_pairs.h"

#include <stdbool.h>

enum {
    DEPTH = 512, /* messages: the more, the larger the groups, until the cache is too small */
    MOST_SEGMENTS = 64,
    LARGEST = 65507,
    NO_GROUP = DEPTH,
};

struct group {
    endpoint to;
    uint32_t segment, bytes, datagrams, views;
    bool closed; /* by a datagram shorter than the others, which can only be the last */
};

static struct {
    struct mmsghdr messages[DEPTH];
    struct iovec views[DEPTH];
    struct sockaddr_in names[DEPTH];
    union control controls[DEPTH];
    uint32_t groups[DEPTH]; /* of each message */
} in;

static struct {
    struct mmsghdr messages[DEPTH];
    struct iovec views[DEPTH];
    struct sockaddr_in names[DEPTH];
    union control controls[DEPTH];
    struct group groups[DEPTH];
    uint32_t count;
} out;

static uint8_t slots[DEPTH][SLOT_SIZE];

static void prepare(void)
{
    for (int i = 0; i < DEPTH; i++) {
        in.views[i] = (struct iovec){slots[i], SLOT_SIZE};
        in.messages[i].msg_hdr = (struct msghdr){.msg_name = &in.names[i],
                                                 .msg_iov = &in.views[i],
                                                 .msg_iovlen = 1,
                                                 .msg_control = &in.controls[i],
                                                 .msg_namelen = sizeof in.names[i],
                                                 .msg_controllen = sizeof in.controls[i]};
    }
}

/* Handshakes may be anywhere in a coalesced message. */
static void take_handshakes(const uint8_t *bytes, uint32_t length, uint32_t segment, endpoint from)
{
    for (uint32_t at = 0; at < length; at += segment) {
        uint32_t size = length - at < segment ? length - at : segment;

        if (is_handshake(bytes + at, size))
            take_handshake(bytes + at, from);
    }
}

static bool fits(const struct group *group, uint32_t length, uint32_t segment, uint32_t datagrams)
{
    bool even = segment == group->segment || (datagrams == 1 && length < group->segment);

    return !group->closed && even && length && group->bytes + length <= LARGEST &&
           group->datagrams + datagrams <= MOST_SEGMENTS;
}

/* The group that a message joins: its flow's latest if it fits there, otherwise a new one. */
static uint32_t group_of(struct mmsghdr *message, uint32_t batch)
{
    const uint8_t *bytes = message->msg_hdr.msg_iov->iov_base;
    uint32_t length = message->msg_len, segment = segment_size(message);
    uint32_t datagrams = length > segment ? (length + segment - 1) / segment : 1;
    endpoint from = endpoint_of(message->msg_hdr.msg_name);

    take_handshakes(bytes, length, segment, from);
    struct flow *flow = flow_from(from);
    if (!flow->to)
        return NO_GROUP;
    if (flow->batch != batch || !fits(&out.groups[flow->group], length, segment, datagrams)) {
        flow->batch = batch;
        flow->group = out.count++;
        out.groups[flow->group] = (struct group){.to = flow->to, .segment = segment};
    }
    struct group *group = &out.groups[flow->group];
    group->bytes += length;
    group->datagrams += datagrams;
    group->views++;
    group->closed = length == 0 || length % group->segment != 0;
    return flow->group;
}

/* Each group becomes a message, whose views lie next to each other. */
static void lay_out(int count)
{
    uint32_t next = 0;

    for (uint32_t i = 0; i < out.count; i++) {
        const struct group *group = &out.groups[i];
        struct msghdr *header = &out.messages[i].msg_hdr;

        out.names[i] = name_of(group->to);
        *header = (struct msghdr){.msg_name = &out.names[i],
                                  .msg_namelen = sizeof out.names[i],
                                  .msg_iov = &out.views[next]};
        if (group->datagrams > 1)
            set_segment_size(header, &out.controls[i], (uint16_t)group->segment);
        next += group->views;
    }
    for (int i = 0; i < count; i++) {
        if (in.groups[i] == NO_GROUP)
            continue;
        struct msghdr *header = &out.messages[in.groups[i]].msg_hdr;
        header->msg_iov[header->msg_iovlen++] =
            (struct iovec){in.views[i].iov_base, in.messages[i].msg_len};
    }
}

static void relay(int fd, int count, uint32_t batch)
{
    out.count = 0;
    for (int i = 0; i < count; i++) {
        in.groups[i] = group_of(&in.messages[i], batch);
        in.messages[i].msg_hdr.msg_namelen = sizeof in.names[i];
        in.messages[i].msg_hdr.msg_controllen = sizeof in.controls[i];
    }
    lay_out(count);
    for (uint32_t sent = 0; sent < out.count;) {
        int done = sendmmsg(fd, out.messages + sent, out.count - sent, 0);

        /* What the kernel refuses is dropped, as on any hop. */
        sent += done > 0 ? (uint32_t)done : 1;
    }
}

int main(int argc, char **argv)
{
    int fd = relay_socket(argc, argv), on = 1;

    setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on);
    prepare();
    for (uint32_t batch = 1;; batch++) {
        int count = recvmmsg(fd, in.messages, DEPTH, MSG_WAITFORONE, NULL);

        if (count > 0)
            relay(fd, count, batch);
    }
}
