/* A plain exposer, as a careful C programmer would write one without batching or offloads: the
 * yardstick.
 *
 *     expose_exposer SERVICE_IP:PORT HELPER_IP:PORT
 *
 * The least that an exposer can do: no password, no limits, no counters, and each tag has its
 * socket until the process ends. */

#include "bench.h"

#include <poll.h>

enum {
    TAG = 2,
    TAGS = 1 << 16,
    TURN = 64, /* datagrams of one socket before the next one has its turn */
    MOST_CONNECTEES = 512,
    KEEPALIVE_MS = 25000,
};

static struct address service, helper;
static uint8_t buffer[TAG + SLOT_SIZE];

/* The socket to the helper, then one to the service for each connectee. */
static struct pollfd sockets[1 + MOST_CONNECTEES];
static uint32_t tags[1 + MOST_CONNECTEES];
static uint32_t used = 1;
static uint32_t socket_of[TAGS]; /* which one, by the tag; 0: none yet */

static int is(const struct address *one, const struct address *other)
{
    return one->length == other->length && memcmp(&one->name, &other->name, one->length) == 0;
}

/* The next datagram's length, or -1 when there is none from that end. */
static ssize_t receive(int fd, uint8_t *bytes, const struct address *end)
{
    struct address source = {.length = sizeof source.name};
    ssize_t length;

    do
        length = recvfrom(fd, bytes, SLOT_SIZE, MSG_DONTWAIT, (struct sockaddr *)&source.name,
                          &source.length);
    while (length >= 0 && !is(&source, end));
    return length;
}

static void forward(int fd, const uint8_t *bytes, size_t length, const struct address *to)
{
    /* What the kernel refuses is dropped, as on any hop. */
    (void)sendto(fd, bytes, length, MSG_DONTWAIT, (const struct sockaddr *)&to->name, to->length);
}

/* Which socket is that tag's, made if need be; 0 when there are too many. */
static uint32_t socket_for(uint32_t tag)
{
    if (!socket_of[tag] && used <= MOST_CONNECTEES) {
        struct address any = {.name.ss_family = service.name.ss_family,
                              .length = service.length};

        sockets[used] = (struct pollfd){.fd = udp_socket(service.name.ss_family, &any),
                                        .events = POLLIN};
        tags[used] = tag;
        socket_of[tag] = used++;
    }
    return socket_of[tag];
}

static void from_helper(void)
{
    for (int i = 0; i < TURN; i++) {
        ssize_t length = receive(sockets[0].fd, buffer, &helper);

        if (length < 0)
            return;
        uint32_t to = length >= TAG ? socket_for((uint32_t)buffer[0] << 8 | buffer[1]) : 0;
        if (to)
            forward(sockets[to].fd, buffer + TAG, (size_t)length - TAG, &service);
    }
}

static void from_service(uint32_t from)
{
    uint32_t tag = tags[from];

    for (int i = 0; i < TURN; i++) {
        ssize_t length = receive(sockets[from].fd, buffer + TAG, &service);

        if (length < 0)
            return;
        buffer[0] = (uint8_t)(tag >> 8);
        buffer[1] = (uint8_t)tag;
        forward(sockets[0].fd, buffer, TAG + (size_t)length, &helper);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: expose_exposer SERVICE_IP:PORT HELPER_IP:PORT\n");
        return 64;
    }
    service = parse_address(argv[1]);
    helper = parse_address(argv[2]);
    sockets[0] = (struct pollfd){.fd = udp_socket(helper.name.ss_family, NULL), .events = POLLIN};
    uint64_t due = 0; /* the next keepalive */

    for (;;) {
        uint64_t now = now_ns();

        if (now >= due) {
            forward(sockets[0].fd, buffer, 0, &helper);
            due = now + KEEPALIVE_MS * 1000000ull;
        }
        if (poll(sockets, used, (int)((due - now) / 1000000u) + 1) < 0 && errno != EINTR)
            die("poll");
        if (sockets[0].revents)
            from_helper();
        for (uint32_t i = 1, before = used; i < before; i++)
            if (sockets[i].revents)
                from_service(i);
    }
}
