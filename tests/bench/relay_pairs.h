/* What the two relays in C share: the relay protocol's handshakes, and who is joined to whom.
 *
 * The least that a relay can do: IPv4, no secret, no limits, no counters, and a channel stays
 * until the process ends. */

#ifndef RELAY_PAIRS_H
#define RELAY_PAIRS_H

#include "bench.h"

enum {
    CHANNEL_BITS = 18,
    FLOW_BITS = CHANNEL_BITS + 1, /* each channel has two */
    MOST_CHANNELS = (1 << CHANNEL_BITS) / 4 * 3,
    GUID = 16,
    GUID_AT = 8,
    SHORTEST_HANDSHAKE = 24,
};

/* An IPv4 address and port as one number; no peer's is 0, which marks a free slot. */
typedef uint64_t endpoint;

struct flow {
    endpoint from, to;
    uint32_t batch, group; /* of the relay that sends in groups */
};

struct channel {
    uint8_t guid[GUID];
    endpoint first, second;
};

static struct flow flows[1 << FLOW_BITS];
static struct channel channels[1 << CHANNEL_BITS];
static uint32_t channels_used;

static inline endpoint endpoint_of(const struct sockaddr_in *name)
{
    return (uint64_t)ntohl(name->sin_addr.s_addr) << 16 | ntohs(name->sin_port);
}

static inline struct sockaddr_in name_of(endpoint peer)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)peer),
                                .sin_addr.s_addr = htonl((uint32_t)(peer >> 16))};
}

static inline uint32_t hash(uint64_t key, int bits)
{
    return (uint32_t)(key * 0x9e3779b97f4a7c15u >> (64 - bits));
}

/* The flow of that source, or the free slot where it would be. */
static inline struct flow *flow_from(endpoint from)
{
    uint32_t at = hash(from, FLOW_BITS);

    while (flows[at].from && flows[at].from != from)
        at = (at + 1) % (1 << FLOW_BITS);
    return &flows[at];
}

static inline struct channel *channel_of(const uint8_t *guid)
{
    uint64_t halves[2];
    uint32_t at;

    memcpy(halves, guid, GUID);
    at = hash(halves[0] ^ halves[1] * 31, CHANNEL_BITS);
    while (channels[at].first && memcmp(channels[at].guid, guid, GUID) != 0)
        at = (at + 1) % (1 << CHANNEL_BITS);
    return &channels[at];
}

static inline int is_handshake(const uint8_t *bytes, size_t length)
{
    static const uint8_t magic[] = {0x04, 0xb2, 0x80, 0x00};
    static const uint8_t no_guid[GUID];

    return length >= SHORTEST_HANDSHAKE && memcmp(bytes, magic, sizeof magic) == 0 &&
           memcmp(bytes + GUID_AT, no_guid, GUID) != 0;
}

static inline void join(endpoint from, endpoint to)
{
    struct flow *flow = flow_from(from);

    flow->from = from;
    flow->to = to;
}

/* The first peer waits, another one completes the channel, a third is ignored. */
static inline void take_handshake(const uint8_t *bytes, endpoint from)
{
    struct channel *channel = channel_of(bytes + GUID_AT);

    if (!channel->first) {
        if (channels_used == MOST_CHANNELS)
            return;
        channels_used++;
        memcpy(channel->guid, bytes + GUID_AT, GUID);
        channel->first = from;
    } else if (!channel->second && channel->first != from) {
        channel->second = from;
        join(channel->first, channel->second);
        join(channel->second, channel->first);
    }
}

/* A socket at that port of loopback, with deep buffers. */
static inline int relay_socket(int argc, char **argv)
{
    struct address listen = {.length = sizeof(struct sockaddr_in)};
    int port = argc == 2 ? atoi(argv[1]) : 0;

    if (port < 1 || port > 65535) {
        fprintf(stderr, "usage: %s PORT\n", argv[0]);
        exit(64);
    }
    *(struct sockaddr_in *)&listen.name = name_of((uint64_t)INADDR_LOOPBACK << 16 | (uint64_t)port);
    return udp_socket(AF_INET, &listen);
}

#endif
