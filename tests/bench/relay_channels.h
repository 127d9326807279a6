/* The channels of the relay's load: the peers' sockets, and pairs of peers brought together.
 *
 * Two sockets serve all peers: loopback owns 127.0.0.0/8, and each channel has an address of it
 * for itself, which its two peers share, at two ports. */

#ifndef RELAY_CHANNELS_H
#define RELAY_CHANNELS_H

#include "bench.h"

enum {
    HANDSHAKE = 56,
    AT_ONCE = 64, /* channels brought up at one time */
    RETRY_MS = 20,
    ALIVE_TRIES = 3,
};

/* The first bytes of every datagram, in host order: both ends are one process. */
struct stamp {
    uint32_t kind, run, channel, unused;
    uint64_t sequence, sent_ns;
};

/* Where a datagram is sent from, or was sent to, and how long its segments are. */
union ancillary {
    char bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

struct channels {
    int near, far; /* sends, receives */
    uint32_t count, run, ups;
    uint8_t *handshakes, *up; /* by channel */
    struct address relay;
};

static inline void *zeros(size_t count, size_t size)
{
    void *bytes = calloc(count, size);

    if (!bytes)
        die("calloc");
    return bytes;
}

/* Neighbours are in different networks, so that no limit by network meets few channels. */
static inline in_addr_t address_of(uint32_t channel)
{
    uint32_t network = channel & 255, host = channel >> 8 & 255, high = channel >> 16;

    return htonl(127u << 24 | (1 + high) << 16 | network << 8 | host);
}

static inline void set_source(union ancillary *control, uint32_t channel)
{
    struct in_pktinfo from = {.ipi_spec_dst.s_addr = address_of(channel)};

    control->align = (struct cmsghdr){.cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO,
                                      .cmsg_len = CMSG_LEN(sizeof from)};
    memcpy(CMSG_DATA(&control->align), &from, sizeof from);
}

static inline in_addr_t asked_address(struct msghdr *header)
{
    struct in_pktinfo to = {.ipi_ifindex = 0};

    for (struct cmsghdr *each = CMSG_FIRSTHDR(header); each; each = CMSG_NXTHDR(header, each))
        if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_PKTINFO)
            memcpy(&to, CMSG_DATA(each), sizeof to);
    return to.ipi_addr.s_addr;
}

static inline int peers_socket(in_addr_t host)
{
    struct address local = {.length = sizeof(struct sockaddr_in)};

    *(struct sockaddr_in *)&local.name =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = host};
    return udp_socket(AF_INET, &local);
}

static inline void open_sockets(struct channels *channels)
{
    enum { DEEP = 64 << 20 };
    const struct address *relay = &channels->relay;
    int deep = DEEP, on = 1;

    /* Connected where it can be: that makes the sending cheaper. */
    channels->near = peers_socket(channels->count == 1 ? address_of(0) : INADDR_ANY);
    if (channels->count == 1 &&
        connect(channels->near, (const struct sockaddr *)&relay->name, relay->length) < 0)
        die("connect");
    channels->far = peers_socket(INADDR_ANY);
    setsockopt(channels->far, SOL_SOCKET, SO_RCVBUFFORCE, &deep, sizeof deep);
    setsockopt(channels->far, SOL_UDP, UDP_GRO, &on, sizeof on);
    setsockopt(channels->far, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
}

static inline void open_channels(struct channels *channels, const char *handshakes)
{
    FILE *file = fopen(handshakes, "rb");

    channels->run = (uint32_t)(now_ns() / 1000000u);
    channels->up = zeros(channels->count, sizeof *channels->up);
    channels->handshakes = zeros(channels->count, HANDSHAKE);
    if (!file || fread(channels->handshakes, HANDSHAKE, channels->count, file) != channels->count)
        die(handshakes);
    fclose(file);
    open_sockets(channels);
}

static inline void send_one(const struct channels *channels, int fd, uint32_t channel, void *bytes,
                            size_t length)
{
    struct sockaddr_storage relay = channels->relay.name;
    union ancillary control;
    struct iovec view = {bytes, length};
    struct msghdr header = {.msg_name = &relay, .msg_namelen = channels->relay.length,
                            .msg_iov = &view, .msg_iovlen = 1, .msg_control = &control,
                            .msg_controllen = CMSG_SPACE(sizeof(struct in_pktinfo))};

    set_source(&control, channel);
    (void)sendmsg(fd, &header, 0);
}

static inline void take_probe(struct channels *channels, const uint8_t *bytes)
{
    struct stamp stamp;

    memcpy(&stamp, bytes, sizeof stamp);
    if (stamp.kind != PROBE || stamp.run != channels->run || stamp.channel >= channels->count)
        return;
    channels->ups += !channels->up[stamp.channel];
    channels->up[stamp.channel] = 1;
}

/* Handshakes come here too, since the relay passes them on, maybe in one message with probes. */
static inline void take_probes(struct channels *channels)
{
    static uint8_t bytes[SLOT_SIZE];
    union ancillary control;
    struct iovec view = {bytes, sizeof bytes};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &view, .msg_iovlen = 1,
                                          .msg_control = &control,
                                          .msg_controllen = sizeof control}};

    while (recvmmsg(channels->far, &message, 1, MSG_DONTWAIT, NULL) == 1) {
        uint32_t segment = segment_size(&message);

        for (uint32_t at = 0; at + sizeof(struct stamp) <= message.msg_len; at += segment)
            take_probe(channels, bytes + at);
        message.msg_hdr.msg_controllen = sizeof control;
    }
}

/* Sends a probe on each of those channels that is not up, after the handshakes of its peers if
 * they shall be introduced, and waits a little for what comes through. */
static inline void probe(struct channels *channels, uint32_t first, uint32_t end, int introduce)
{
    uint64_t patience = now_ns() + RETRY_MS * 1000000u;
    uint32_t wanted = channels->ups;

    for (uint32_t i = first; i < end; i++) {
        struct stamp probe = {.kind = PROBE, .run = channels->run, .channel = i};
        uint8_t *handshake = channels->handshakes + (size_t)i * HANDSHAKE;

        if (channels->up[i])
            continue;
        wanted++;
        if (introduce) {
            send_one(channels, channels->near, i, handshake, HANDSHAKE);
            send_one(channels, channels->far, i, handshake, HANDSHAKE);
        }
        send_one(channels, channels->near, i, &probe, sizeof probe);
    }
    while (channels->ups < wanted && now_ns() < patience)
        take_probes(channels);
}

static inline uint32_t end_of(const struct channels *channels, uint32_t first)
{
    return first + AT_ONCE < channels->count ? first + AT_ONCE : channels->count;
}

/* Ends the program if a channel is not up in time. */
static inline void bring_up(struct channels *channels, double seconds)
{
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);

    for (uint32_t first = 0; first < channels->count; first += AT_ONCE)
        while (channels->ups < end_of(channels, first)) {
            if (now_ns() > end) {
                fprintf(stderr, "%u of %u channels are up\n", channels->ups, channels->count);
                exit(EXIT_FAILURE);
            }
            probe(channels, first, end_of(channels, first), 1);
        }
}

/* How many channels still pass a datagram, with no new handshakes. */
static inline uint32_t count_alive(struct channels *channels)
{
    channels->ups = 0;
    memset(channels->up, 0, channels->count);
    for (uint32_t first = 0; first < channels->count; first += AT_ONCE)
        for (int tries = 0; tries < ALIVE_TRIES; tries++)
            probe(channels, first, end_of(channels, first), 0);
    return channels->ups;
}

#endif
