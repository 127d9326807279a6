/* A plain relay, as a careful C programmer would write one without batching or offloads: the
 * yardstick.
 *
 *     relay_plain PORT */

#include "relay_pairs.h"

static uint8_t buffer[SLOT_SIZE];

int main(int argc, char **argv)
{
    int fd = relay_socket(argc, argv);

    for (;;) {
        struct sockaddr_in name;
        socklen_t name_length = sizeof name;
        ssize_t length =
            recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&name, &name_length);

        if (length < 0)
            continue;
        endpoint from = endpoint_of(&name);
        if (is_handshake(buffer, (size_t)length))
            take_handshake(buffer, from);
        endpoint to = flow_from(from)->to;
        if (!to)
            continue;
        name = name_of(to);
        /* What the kernel refuses is dropped, as on any hop. */
        (void)sendto(fd, buffer, (size_t)length, 0, (struct sockaddr *)&name, sizeof name);
    }
}
