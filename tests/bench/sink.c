/* The application behind the forwarders: counts what the generator sent, and echoes it if asked.
 *
 *     sink [-e] [-i IDLE_MS] LISTEN_IP:PORT
 *
 *     -e  send every datagram back
 *     -i  report after this long a silence (default 1000; 0: never)
 *
 * Reports are JSON lines on stdout: at SIGUSR1, at SIGTERM (and ends), after a silence. Each
 * holds what came of the latest run so far. Probes are always sent back, and not counted. */

#include "bench.h"

#include <signal.h>
#include <unistd.h>

enum { WAKE_MS = 10 }; /* how soon a signal is seen when nothing arrives */

static volatile sig_atomic_t asked, ended;

static void on_signal(int number)
{
    if (number == SIGUSR1)
        asked = 1;
    else
        ended = 1;
}

static void watch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static void echo(int fd, struct batch *batch, int index, uint32_t segment)
{
    struct msghdr *header = &batch->messages[index].msg_hdr;
    uint32_t length = batch->messages[index].msg_len;

    batch->views[index].iov_len = length;
    header->msg_controllen = 0;
    if (segment < length)
        set_segment_size(header, &batch->controls[index], (uint16_t)segment);
    (void)sendmsg(fd, header, 0);
}

static int open_sink(const char *text)
{
    struct address listen = parse_address(text);
    struct timeval wake = {.tv_usec = WAKE_MS * 1000};
    int on = 1;
    int fd = udp_socket(listen.name.ss_family, &listen);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wake, sizeof wake);
    setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on);
    return fd;
}

int main(int argc, char **argv)
{
    struct tally tally = {.run = 0};
    uint64_t reported = 0, heard = 0;
    int echoes = 0, idle_ms = 1000, option;

    while ((option = getopt(argc, argv, "ei:")) != -1) {
        if (option == 'e')
            echoes = 1;
        else if (option == 'i')
            idle_ms = atoi(optarg);
        else
            return 64;
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "usage: sink [-e] [-i IDLE_MS] LISTEN_IP:PORT\n");
        return 64;
    }
    watch_signals();
    int fd = open_sink(argv[optind]);
    struct batch *batch = new_batch();

    while (!ended) {
        int count = receive_batch(fd, batch, MSG_WAITFORONE);

        for (int i = 0; i < count; i++) {
            uint32_t length = batch->messages[i].msg_len;
            uint32_t segment = segment_size(&batch->messages[i]);
            int probe = tally_message(&tally, batch->views[i].iov_base, length, segment);

            if (echoes || probe)
                echo(fd, batch, i, segment);
        }
        if (count)
            heard = now_ns();
        else if (idle_ms && tally.received != reported)
            asked |= now_ns() - heard >= (uint64_t)idle_ms * 1000000u;
        if (asked) {
            asked = 0;
            reported = tally.received;
            print_tally(&tally);
        }
    }
    print_tally(&tally);
    return 0;
}
