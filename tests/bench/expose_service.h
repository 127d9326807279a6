/* The service behind the exposer: echoes what comes, batch by batch. */

#ifndef EXPOSE_SERVICE_H
#define EXPOSE_SERVICE_H

#include "bench.h"

struct service {
    int fd;
    uint32_t size;   /* of the datagrams that count */
    uint64_t served; /* of these */
    struct batch *batch;
};

/* It takes and echoes trains whole if the load sends any, and is an ordinary one if not. */
static inline void open_service(struct service *service, const struct address *listen,
                                uint32_t size, uint32_t train)
{
    enum { DEEP = 64 << 20 };
    int deep = DEEP, trains = train > 1;

    service->fd = udp_socket(AF_INET, listen);
    service->size = size;
    service->batch = new_batch();
    setsockopt(service->fd, SOL_SOCKET, SO_RCVBUFFORCE, &deep, sizeof deep);
    setsockopt(service->fd, SOL_UDP, UDP_GRO, &trains, sizeof trains);
}

/* Echoes what has come; returns the number of messages, at most a batch. */
static inline int serve(struct service *service)
{
    struct batch *batch = service->batch;
    int count = receive_batch(service->fd, batch, MSG_DONTWAIT);

    for (int i = 0; i < count; i++) {
        struct mmsghdr *message = &batch->messages[i];
        uint32_t length = message->msg_len, segment = segment_size(message);

        if (segment == service->size)
            service->served += (length + segment - 1) / segment;
        batch->views[i].iov_len = length;
        message->msg_hdr.msg_controllen = 0;
        if (segment < length)
            set_segment_size(&message->msg_hdr, &batch->controls[i], (uint16_t)segment);
    }
    for (int sent = 0; sent < count;) {
        int done = sendmmsg(service->fd, batch->messages + sent, (unsigned)(count - sent), 0);

        /* What the kernel refuses is dropped, as on any hop. */
        sent += done > 0 ? done : 1;
    }
    return count;
}

#endif
