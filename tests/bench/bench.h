/* What the generator, the sink and the plain forwarder share: addresses, sockets, the form of a
 * numbered datagram, and counting those that arrive. */

#ifndef BENCH_H
#define BENCH_H

#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    SLOTS = 64,              /* messages to one recvmmsg or sendmmsg */
    SLOT_SIZE = 65536,       /* the largest message: a datagram or a coalesced train */
    SOCKET_BUFFER = 4 << 20, /* asked for; the kernel grants at most net.core.rmem_max */
};

struct address {
    struct sockaddr_storage name;
    socklen_t length;
};

static inline void die(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

static inline uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* "127.0.0.1:5000" or "[::1]:5000". */
static inline struct address parse_address(const char *text)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t bracket = text[0] == '[';
    size_t length = colon ? (size_t)(colon - text) : 0;
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                             .ai_socktype = SOCK_DGRAM};
    struct addrinfo *found;
    struct address address = {.length = 0};

    if (length > 2 * bracket && length - 2 * bracket < sizeof host) {
        memcpy(host, text + bracket, length - 2 * bracket);
        host[length - 2 * bracket] = '\0';
        if (getaddrinfo(host, colon + 1, &hints, &found) == 0) {
            memcpy(&address.name, found->ai_addr, found->ai_addrlen);
            address.length = found->ai_addrlen;
            freeaddrinfo(found);
            return address;
        }
    }
    fprintf(stderr, "%s: not an IP:PORT\n", text);
    exit(EXIT_FAILURE);
}

/* A UDP socket with deep buffers; bound when `bound` is given. */
static inline int udp_socket(int family, const struct address *bound)
{
    int size = SOCKET_BUFFER;
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (bound && bind(fd, (const struct sockaddr *)&bound->name, bound->length) < 0)
        die("bind");
    return fd;
}

/* The first bytes of every datagram, in host order: both ends are on one machine. */
enum kind { NUMBERED = 0x4e554d31, PROBE = 0x50524f31 };

struct header {
    uint32_t kind;
    uint32_t run;
    uint64_t sequence;
};

/* What arrived of one run. A datagram is late when one sent after it came before it, or when it
 * is a duplicate. */
struct tally {
    uint32_t run;
    uint32_t size;
    uint64_t expected;
    uint64_t received;
    uint64_t messages;
    uint64_t gaps;
    uint64_t late;
    uint64_t malformed;
};

static inline void tally_datagram(struct tally *tally, const struct header *header, uint32_t size)
{
    if (header->run != tally->run) {
        /* Runs are numbered upwards: the rest of an earlier one is not counted. */
        if ((int32_t)(header->run - tally->run) < 0)
            return;
        *tally = (struct tally){.run = header->run, .size = size};
    }
    tally->received++;
    tally->malformed += size != tally->size;
    tally->gaps += header->sequence > tally->expected;
    tally->late += header->sequence < tally->expected;
    if (header->sequence >= tally->expected)
        tally->expected = header->sequence + 1;
}

/* Counts the datagrams of a message; returns whether it is a probe, which is not counted. */
static inline int tally_message(struct tally *tally, const uint8_t *bytes, uint32_t length,
                                uint32_t segment)
{
    struct header header;

    for (uint32_t at = 0; at < length; at += segment) {
        uint32_t size = length - at < segment ? length - at : segment;

        if (size >= sizeof header)
            memcpy(&header, bytes + at, sizeof header);
        if (size < sizeof header || (header.kind != NUMBERED && header.kind != PROBE)) {
            tally->malformed++;
            continue;
        }
        if (header.kind == PROBE)
            return 1;
        tally_datagram(tally, &header, size);
    }
    tally->messages++;
    return 0;
}

static inline void print_tally(const struct tally *tally)
{
    printf("{\"run\": %u, \"received\": %llu, \"messages\": %llu, \"gaps\": %llu, "
           "\"late\": %llu, \"malformed\": %llu}\n",
           tally->run, (unsigned long long)tally->received,
           (unsigned long long)tally->messages, (unsigned long long)tally->gaps,
           (unsigned long long)tally->late, (unsigned long long)tally->malformed);
    fflush(stdout);
}

/* Room for a batch of received messages; `control` doubles as that of an echo. */
union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

struct batch {
    struct mmsghdr messages[SLOTS];
    struct iovec views[SLOTS];
    struct sockaddr_storage names[SLOTS];
    union control controls[SLOTS];
    uint8_t *bytes;
};

static inline struct batch *new_batch(void)
{
    struct batch *batch = calloc(1, sizeof *batch);

    if (!batch || !(batch->bytes = malloc((size_t)SLOTS * SLOT_SIZE)))
        die("malloc");
    for (int i = 0; i < SLOTS; i++) {
        batch->views[i].iov_base = batch->bytes + (size_t)i * SLOT_SIZE;
        batch->messages[i].msg_hdr =
            (struct msghdr){.msg_name = &batch->names[i], .msg_iov = &batch->views[i],
                            .msg_iovlen = 1, .msg_control = &batch->controls[i]};
    }
    return batch;
}

/* How many messages came: 0 when none did in time. */
static inline int receive_batch(int fd, struct batch *batch, int flags)
{
    int count;

    for (int i = 0; i < SLOTS; i++) {
        batch->views[i].iov_len = SLOT_SIZE;
        batch->messages[i].msg_hdr.msg_namelen = sizeof batch->names[i];
        batch->messages[i].msg_hdr.msg_controllen = sizeof batch->controls[i];
    }
    count = recvmmsg(fd, batch->messages, SLOTS, flags, NULL);
    if (count >= 0)
        return count;
    if (errno != EAGAIN && errno != EINTR && errno != ECONNREFUSED)
        die("recvmmsg");
    return 0;
}

/* The size of the datagrams in a received message: its own length unless it was coalesced. */
static inline uint32_t segment_size(struct mmsghdr *message)
{
    struct msghdr *header = &message->msg_hdr;
    struct cmsghdr *control;
    int size;

    for (control = CMSG_FIRSTHDR(header); control; control = CMSG_NXTHDR(header, control))
        if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO) {
            memcpy(&size, CMSG_DATA(control), sizeof size);
            return (uint32_t)size;
        }
    return message->msg_len;
}

static inline void set_segment_size(struct msghdr *header, union control *control, uint16_t size)
{
    control->align = (struct cmsghdr){.cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT,
                                      .cmsg_len = CMSG_LEN(sizeof size)};
    memcpy(CMSG_DATA(&control->align), &size, sizeof size);
    header->msg_control = control;
    header->msg_controllen = CMSG_SPACE(sizeof size);
}

#endif
