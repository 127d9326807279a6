/* The connectees before the helper: one socket serves all, each of which has an address for itself
 * (loopback owns 127.0.0.0/8). What comes back to them is counted here. */

#ifndef EXPOSE_CONNECTEES_H
#define EXPOSE_CONNECTEES_H

#include "expose_service.h"
#include "relay_channels.h"

enum {
    BATCH = 64, /* datagrams to one sendmmsg, messages to one recvmmsg */
    PROBE_MS = 50,
    MOST_CONNECTEES = 32,
    CHECK_EACH = 16, /* batches: one of so many is looked at datagram by datagram */
};

struct options {
    uint32_t connectees, size, train, rate, window;
    uint64_t count;
    double seconds, patience;
    struct address service, helper;
    uint16_t port;
};

struct messages {
    struct mmsghdr headers[BATCH];
    struct iovec views[BATCH];
    union ancillary controls[BATCH];
    uint8_t *bytes;
};

/* Datagrams by their sequence numbers: those below `over` are not under way any more. */
struct connectee {
    uint64_t next, expected, over, heard_ns;
};

struct load {
    struct options options;
    struct service service;
    int fd;
    uint32_t run, turn, up;
    struct connectee *connectees;
    struct messages out, in;
    uint64_t sent, failed, batches, last_ns, sending_ns, elapsed_ns;
    uint64_t received, late, malformed, misdelivered;
};

static inline void open_connectees(struct load *load)
{
    enum { DEEP = 64 << 20 };
    struct address local = {.length = sizeof(struct sockaddr_in)};
    int deep = DEEP, on = 1;

    *(struct sockaddr_in *)&local.name = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(load->options.port)};
    load->fd = udp_socket(AF_INET, &local);
    setsockopt(load->fd, SOL_SOCKET, SO_RCVBUFFORCE, &deep, sizeof deep);
    setsockopt(load->fd, SOL_UDP, UDP_GRO, &on, sizeof on);
    setsockopt(load->fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
}

static inline void set_segment(struct msghdr *header, struct cmsghdr *control, uint16_t size)
{
    *control = (struct cmsghdr){.cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT,
                                .cmsg_len = CMSG_LEN(sizeof size)};
    memcpy(CMSG_DATA(control), &size, sizeof size);
    header->msg_controllen += CMSG_SPACE(sizeof size);
}

static inline void prepare_out(struct load *load)
{
    struct options *options = &load->options;
    uint32_t length = options->train * options->size;
    struct messages *out = &load->out;

    out->bytes = zeros(BATCH, options->size);
    for (uint32_t i = 0; i < BATCH / options->train; i++) {
        struct msghdr *header = &out->headers[i].msg_hdr;
        char *control = out->controls[i].bytes;

        out->views[i] = (struct iovec){out->bytes + i * length, length};
        *header = (struct msghdr){.msg_name = &options->helper.name,
                                  .msg_namelen = options->helper.length,
                                  .msg_iov = &out->views[i], .msg_iovlen = 1,
                                  .msg_control = control,
                                  .msg_controllen = CMSG_SPACE(sizeof(struct in_pktinfo))};
        control += header->msg_controllen;
        if (options->train > 1)
            set_segment(header, (struct cmsghdr *)control, (uint16_t)options->size);
    }
}

static inline void prepare(struct load *load)
{
    struct options *options = &load->options;
    struct messages *in = &load->in;

    load->run = (uint32_t)(now_ns() / 1000000u);
    load->connectees = zeros(options->connectees, sizeof *load->connectees);
    open_service(&load->service, &options->service, options->size, options->train);
    open_connectees(load);
    prepare_out(load);
    in->bytes = zeros(BATCH, SLOT_SIZE);
    for (size_t i = 0; i < BATCH; i++) {
        in->views[i].iov_base = in->bytes + i * SLOT_SIZE;
        in->headers[i].msg_hdr = (struct msghdr){.msg_iov = &in->views[i], .msg_iovlen = 1,
                                                 .msg_control = &in->controls[i]};
    }
}

/* Counts datagrams of one connectee, of which the first has that stamp. */
static inline void count_datagrams(struct load *load, const struct stamp *stamp, uint32_t datagrams)
{
    struct connectee *connectee = &load->connectees[stamp->channel];
    uint64_t end = stamp->sequence + datagrams;

    load->late += stamp->sequence < connectee->expected;
    if (end > connectee->expected)
        connectee->expected = end;
    if (end > connectee->over)
        connectee->over = end;
    connectee->heard_ns = load->last_ns;
    load->received += datagrams;
}

/* `whole`: all bytes of the message are there, so that each datagram can be looked at. */
static inline void count_message(struct load *load, struct mmsghdr *message, int whole)
{
    const uint8_t *bytes = message->msg_hdr.msg_iov->iov_base;
    uint32_t length = message->msg_len, segment = segment_size(message);
    uint32_t step = whole ? segment : length;
    struct stamp stamp;

    for (uint32_t at = 0; at < length; at += step) {
        uint32_t size = length - at < step ? length - at : step;
        uint32_t datagrams = (size + segment - 1) / segment;

        if (size < sizeof stamp) {
            load->malformed++;
            continue;
        }
        memcpy(&stamp, bytes + at, sizeof stamp);
        if (stamp.run != load->run)
            continue; /* an earlier run's */
        if (stamp.channel >= load->options.connectees) {
            load->malformed++;
            continue;
        }
        load->misdelivered += asked_address(&message->msg_hdr) != address_of(stamp.channel);
        if (stamp.kind == PROBE) {
            load->up |= 1u << stamp.channel;
            continue;
        }
        if (size % segment || segment != load->options.size)
            load->malformed += datagrams;
        count_datagrams(load, &stamp, datagrams);
    }
}

/* Counts what has come back; returns the number of messages, at most a batch. Of most only the
 * first bytes are fetched: it is what is measured that shall have the most to do. */
static inline int drain(struct load *load)
{
    int whole = load->batches % CHECK_EACH == 0, count;
    struct messages *in = &load->in;

    for (int i = 0; i < BATCH; i++) {
        in->views[i].iov_len = whole ? SLOT_SIZE : sizeof(struct stamp);
        in->headers[i].msg_hdr.msg_controllen = sizeof in->controls[i];
    }
    count = recvmmsg(load->fd, in->headers, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL);
    if (count <= 0)
        return 0;
    load->last_ns = now_ns();
    load->batches++;
    for (int i = 0; i < count; i++)
        count_message(load, &in->headers[i], whole);
    return count;
}

/* Does both sides' receiving; returns whether anything came. */
static inline int attend(struct load *load)
{
    int served = serve(&load->service);

    return served + drain(load);
}

static inline void probe_all(struct load *load)
{
    for (uint32_t i = 0; i < load->options.connectees; i++) {
        struct stamp stamp = {.kind = PROBE, .run = load->run, .channel = i};
        struct iovec view = {&stamp, sizeof stamp};
        union ancillary control;
        struct msghdr header = {.msg_name = &load->options.helper.name,
                                .msg_namelen = load->options.helper.length,
                                .msg_iov = &view, .msg_iovlen = 1, .msg_control = &control,
                                .msg_controllen = CMSG_SPACE(sizeof(struct in_pktinfo))};

        set_source(&control, i);
        if (!(load->up >> i & 1))
            (void)sendmsg(load->fd, &header, 0);
    }
}

/* Ends the program if a connectee has no echo in time. */
static inline void await_path(struct load *load)
{
    uint32_t all = (uint32_t)((1ull << load->options.connectees) - 1);
    uint64_t end = now_ns() + (uint64_t)(load->options.patience * 1e9);

    while (load->up != all) {
        uint64_t patience = now_ns() + PROBE_MS * 1000000u;

        if (patience > end) {
            fprintf(stderr, "not every connectee had an echo\n");
            exit(EXIT_FAILURE);
        }
        probe_all(load);
        while (load->up != all && now_ns() < patience)
            attend(load);
    }
}

#endif
