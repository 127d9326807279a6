/* A plain helper of the expose protocol, as a careful C programmer would write one without
 * batching or offloads: the yardstick.
 *
 *     expose_helper PORT
 *
 * The least that a helper can do: IPv4, no password, no limits, no counters, and a connectee
 * keeps its tag until the process ends. */

#include "relay_pairs.h"

enum {
    TAG = 2,
    TAGS = 1 << 16,
    CONNECTEE_BITS = 17, /* of the table, which is never more than half full */
};

static struct {
    endpoint from;
    uint32_t tag;
} connectees[1 << CONNECTEE_BITS];

static endpoint tagged[TAGS]; /* the connectees by their tags */
static uint32_t tags_used;

/* Tags count from 1; 0 when there is none left. */
static uint32_t tag_of(endpoint from)
{
    uint32_t at = hash(from, CONNECTEE_BITS);

    while (connectees[at].from && connectees[at].from != from)
        at = (at + 1) % (1 << CONNECTEE_BITS);
    if (!connectees[at].from && tags_used < TAGS - 1) {
        connectees[at].from = from;
        connectees[at].tag = ++tags_used;
        tagged[tags_used] = from;
    }
    return connectees[at].tag;
}

static void forward(int fd, const uint8_t *bytes, size_t length, endpoint to)
{
    struct sockaddr_in name = name_of(to);

    /* What the kernel refuses is dropped, as on any hop. */
    (void)sendto(fd, bytes, length, 0, (struct sockaddr *)&name, sizeof name);
}

int main(int argc, char **argv)
{
    static uint8_t buffer[TAG + SLOT_SIZE];
    uint8_t *datagram = buffer + TAG; /* with room for a tag in front of it */
    int fd = relay_socket(argc, argv);
    endpoint exposer = 0;

    for (;;) {
        struct sockaddr_in name;
        socklen_t name_length = sizeof name;
        ssize_t length =
            recvfrom(fd, datagram, SLOT_SIZE, 0, (struct sockaddr *)&name, &name_length);

        if (length < 0)
            continue;
        endpoint from = endpoint_of(&name);
        if (length == 0) {
            exposer = from; /* its keepalive */
        } else if (from == exposer) {
            endpoint to = length >= TAG ? tagged[datagram[0] << 8 | datagram[1]] : 0;

            if (to)
                forward(fd, datagram + TAG, (size_t)length - TAG, to);
        } else if (exposer) {
            uint32_t tag = tag_of(from);

            buffer[0] = (uint8_t)(tag >> 8);
            buffer[1] = (uint8_t)tag;
            if (tag)
                forward(fd, buffer, TAG + (size_t)length, exposer);
        }
    }
}
