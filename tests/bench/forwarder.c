/* A plain UDP forwarder, as a careful C programmer would write one without batching or offloads:
 * the yardstick.
 *
 *     forwarder LISTEN_IP:PORT DEST_IP:PORT
 *
 * What comes to LISTEN goes to DEST through a second socket; what that one hears from DEST goes
 * back to the source of the first datagram. */

#include "bench.h"

#include <poll.h>

enum { TURN = 64 }; /* datagrams of one direction before the other has its turn */

static uint8_t buffer[SLOT_SIZE];

static int same_address(const struct address *one, const struct address *other)
{
    return one->length == other->length && memcmp(&one->name, &other->name, one->length) == 0;
}

/* The next datagram's length, or -1 when there is none. */
static ssize_t receive(int fd, struct address *source)
{
    source->length = sizeof source->name;
    return recvfrom(fd, buffer, sizeof buffer, MSG_DONTWAIT, (struct sockaddr *)&source->name,
                    &source->length);
}

static void forward(int fd, size_t length, const struct address *to)
{
    /* What the kernel refuses is dropped, as on any hop. */
    (void)sendto(fd, buffer, length, MSG_DONTWAIT, (const struct sockaddr *)&to->name,
                 to->length);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: forwarder LISTEN_IP:PORT DEST_IP:PORT\n");
        return 64;
    }
    struct address listen = parse_address(argv[1]);
    struct address destination = parse_address(argv[2]);
    struct address local = {.length = 0};
    struct address source;
    int near = udp_socket(listen.name.ss_family, &listen);
    int far = udp_socket(destination.name.ss_family, NULL);
    struct pollfd polled[] = {{.fd = near, .events = POLLIN}, {.fd = far, .events = POLLIN}};
    ssize_t length;

    for (;;) {
        if (poll(polled, 2, -1) < 0 && errno != EINTR)
            die("poll");
        if (polled[0].revents)
            for (int i = 0; i < TURN && (length = receive(near, &source)) >= 0; i++) {
                if (local.length == 0)
                    local = source;
                if (same_address(&source, &local))
                    forward(far, (size_t)length, &destination);
            }
        if (polled[1].revents)
            for (int i = 0; i < TURN && (length = receive(far, &source)) >= 0; i++)
                if (local.length != 0 && same_address(&source, &destination))
                    forward(near, (size_t)length, &local);
    }
}
