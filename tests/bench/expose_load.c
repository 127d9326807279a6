/* The connectees before the helper and the service behind the exposer: the connectees send
 * numbered datagrams, the service echoes them, and what comes back is counted.
 *
 *     expose_load -e IP:PORT -b PORT [-c CONNECTEES] [-s SIZE] [-t TRAIN] [-r RATE] [-w WINDOW]
 *                 [-n COUNT] [-d SECONDS] [-p SECONDS] HELPER_IP:PORT
 *
 *     -e  where the service is
 *     -b  the port of the connectees, each of which has an address for itself
 *     -c  connectees, which take turns (default 8)
 *     -s  bytes of each datagram, more than 32 (default 1200)
 *     -t  datagrams sent as one message with UDP_SEGMENT (default 1: singly)
 *     -r  datagrams per second, evenly spaced (default 0: whenever the window has room)
 *     -w  datagrams of a connectee that may be under way where there is no rate (default 128)
 *     -n  datagrams in all (default 100000)
 *     -d  end after this long at the latest (default 10)
 *     -p  for how long the path may be coming up; status 1 if it does not (default 30)
 *
 * Prints "ready" when every connectee had an echo, waits for a line on stdin, and prints a JSON
 * line when done. */

#include "expose_connectees.h"

#include <unistd.h>

enum {
    STALLED_MS = 100, /* without an echo, what is under way is lost */
    QUIET_MS = 400,   /* what has not come back after such a silence is lost */
};

static void number(struct load *load, uint32_t message, uint32_t connectee)
{
    const struct options *options = &load->options;
    uint8_t *bytes = load->out.views[message].iov_base;
    struct stamp stamp = {.kind = NUMBERED, .run = load->run, .channel = connectee};

    set_source(&load->out.controls[message], connectee);
    for (uint32_t i = 0; i < options->train; i++, bytes += options->size) {
        stamp.sequence = load->connectees[connectee].next++;
        memcpy(bytes, &stamp, sizeof stamp);
    }
}

static void send_messages(struct load *load, uint32_t count)
{
    for (uint32_t i = 0; i < count;) {
        int done = sendmmsg(load->fd, load->out.headers + i, count - i, 0);

        if (done <= 0) {
            if (errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED)
                die("sendmmsg");
            load->failed += load->options.train;
            done = 1;
        }
        i += (uint32_t)done;
    }
    load->sent += count * load->options.train;
}

static int has_room(struct load *load, struct connectee *connectee, uint64_t now)
{
    const struct options *options = &load->options;

    if (connectee->next + options->train <= connectee->over + options->window)
        return 1;
    if (now < connectee->heard_ns + STALLED_MS * 1000000u)
        return 0;
    connectee->over = connectee->next;
    connectee->heard_ns = now;
    return 1;
}

/* A batch of what the windows have room for, the connectees taking turns. */
static void fill_windows(struct load *load)
{
    const struct options *options = &load->options;
    uint32_t messages = 0, full = 0;
    uint64_t now = now_ns();

    while (messages < BATCH / options->train && full < options->connectees) {
        uint32_t turn = load->turn++ % options->connectees;

        if (has_room(load, &load->connectees[turn], now)) {
            number(load, messages++, turn);
            full = 0;
        } else {
            full++;
        }
    }
    if (messages)
        send_messages(load, messages);
}

static void send_next(struct load *load)
{
    number(load, 0, load->turn++ % load->options.connectees);
    send_messages(load, 1);
}

/* Sends it all, and waits for what comes back. */
static void generate(struct load *load)
{
    const struct options *options = &load->options;
    uint64_t start = now_ns(), now = start, quiet;
    uint64_t end = start + (uint64_t)(options->seconds * 1e9);

    load->last_ns = start;
    for (uint32_t i = 0; i < options->connectees; i++)
        load->connectees[i].heard_ns = start;
    while (load->sent < options->count && now < end) {
        if (!options->rate)
            fill_windows(load);
        else if (now >= start + load->sent * 1000000000u / options->rate)
            send_next(load);
        attend(load);
        now = now_ns();
    }
    load->sending_ns = now - start;
    for (quiet = now; load->received < load->sent - load->failed &&
                      now_ns() < quiet + QUIET_MS * 1000000u;)
        if (attend(load))
            quiet = now_ns();
    load->elapsed_ns = load->last_ns - start;
}

/* What the sockets of this program had no room for: its own fault. */
static uint32_t dropped(int fd)
{
    enum { DROPS = 8, FIELDS = 16 }; /* SK_MEMINFO_DROPS */
    uint32_t memory[FIELDS] = {0};
    socklen_t length = sizeof memory;

    getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length);
    return memory[DROPS];
}

static void print_result(const struct load *load)
{
    printf("{\"sent\": %llu, \"served\": %llu, \"received\": %llu, \"late\": %llu, "
           "\"malformed\": %llu, \"misdelivered\": %llu, \"dropped\": %u, \"sending\": %.6f, "
           "\"seconds\": %.6f}\n",
           (unsigned long long)(load->sent - load->failed),
           (unsigned long long)load->service.served, (unsigned long long)load->received,
           (unsigned long long)load->late, (unsigned long long)load->malformed,
           (unsigned long long)load->misdelivered,
           dropped(load->fd) + dropped(load->service.fd), (double)load->sending_ns / 1e9,
           (double)load->elapsed_ns / 1e9);
}

static int usage(void)
{
    fprintf(stderr, "usage: expose_load -e IP:PORT -b PORT [-c CONNECTEES] [-s SIZE] [-t TRAIN] "
                    "[-r RATE] [-w WINDOW] [-n COUNT] [-d SECONDS] [-p SECONDS] "
                    "HELPER_IP:PORT\n");
    return 64;
}

static int are_valid(const struct options *options)
{
    return options->service.name.ss_family == AF_INET &&
           options->helper.name.ss_family == AF_INET && options->port &&
           options->connectees >= 1 && options->connectees <= MOST_CONNECTEES &&
           options->size > sizeof(struct stamp) && options->train >= 1 &&
           options->train <= BATCH && options->train * options->size <= 65507 &&
           options->window >= options->train;
}

static int read_options(struct options *options, int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "e:b:c:s:t:r:w:n:d:p:")) != -1) {
        switch (option) {
        case 'e': options->service = parse_address(optarg); break;
        case 'b': options->port = (uint16_t)atoi(optarg); break;
        case 'c': options->connectees = (uint32_t)atoi(optarg); break;
        case 's': options->size = (uint32_t)atoi(optarg); break;
        case 't': options->train = (uint32_t)atoi(optarg); break;
        case 'r': options->rate = (uint32_t)atoi(optarg); break;
        case 'w': options->window = (uint32_t)atoi(optarg); break;
        case 'n': options->count = strtoull(optarg, NULL, 10); break;
        case 'd': options->seconds = atof(optarg); break;
        case 'p': options->patience = atof(optarg); break;
        default: return 0;
        }
    }
    if (optind + 1 != argc)
        return 0;
    options->helper = parse_address(argv[optind]);
    return are_valid(options);
}

int main(int argc, char **argv)
{
    static struct load load = {.options = {.connectees = 8, .size = 1200, .train = 1,
                                           .window = 128, .count = 100000, .seconds = 10,
                                           .patience = 30}};

    if (!read_options(&load.options, argc, argv))
        return usage();
    prepare(&load);
    await_path(&load);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF)
        return EXIT_FAILURE;
    generate(&load);
    print_result(&load);
    return 0;
}
