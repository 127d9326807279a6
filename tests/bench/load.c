/* The application before the forwarders: sends numbered datagrams at a rate, and counts what is
 * echoed.
 *
 *     load [-s SIZE] [-t TRAIN] [-r RATE] [-g GROUP] [-n COUNT] [-d SECONDS] [-b IP:PORT]
 *          [-p SECONDS] [-w] [-e] DEST_IP:PORT
 *
 *     -s  bytes of each datagram (default 1200, at least 16)
 *     -t  datagrams sent as one message with UDP_SEGMENT (default 1: singly)
 *     -r  datagrams per second (default 0: as fast as possible)
 *     -g  datagrams sent at one moment (default: what the rate asks of every 100 us)
 *     -n  datagrams in all (default 100000)
 *     -d  end after this long at the latest (default 10)
 *     -b  the local address
 *     -p  first send probes until one comes back, for so long at most; status 1 if none does
 *     -w  print "ready" and wait for a line on stdin before the first datagram
 *     -e  count echoes
 *
 * Prints a JSON line when done. */

#include "bench.h"

#include <sys/prctl.h>
#include <unistd.h>

enum {
    BATCH = 64,           /* datagrams to one sendmmsg */
    GROUPS_A_SECOND = 10000,
    PROBE_MS = 50,
    QUIET_MS = 100,       /* echoes are over after such a silence */
};

struct options {
    uint32_t size, train, rate, group;
    uint64_t count;
    double seconds, probing;
    int waits, echoes;
    struct address bound, destination;
};

struct sender {
    int fd;
    uint32_t run;
    uint64_t sent, failed;
    struct mmsghdr messages[BATCH];
    struct iovec views[BATCH];
    union control controls[BATCH];
    uint8_t *bytes;
};

static void sleep_until(uint64_t ns)
{
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

static void prepare(struct sender *sender, const struct options *options)
{
    uint32_t length = options->train * options->size;

    sender->run = (uint32_t)(now_ns() / 1000000u); /* later runs have higher numbers */
    sender->bytes = calloc(BATCH, options->size);
    if (!sender->bytes)
        die("calloc");
    for (uint32_t i = 0; i < BATCH / options->train; i++) {
        struct msghdr *header = &sender->messages[i].msg_hdr;

        sender->views[i] = (struct iovec){sender->bytes + i * length, length};
        header->msg_iov = &sender->views[i];
        header->msg_iovlen = 1;
        if (options->train > 1)
            set_segment_size(header, &sender->controls[i], (uint16_t)options->size);
    }
}

static void number(struct sender *sender, const struct options *options, uint32_t datagrams)
{
    struct header header = {.kind = NUMBERED, .run = sender->run, .sequence = sender->sent};

    for (uint32_t i = 0; i < datagrams; i++, header.sequence++)
        memcpy(sender->bytes + i * options->size, &header, sizeof header);
}

/* Sends `datagrams`, a whole number of trains, in as few calls as possible. */
static void send_group(struct sender *sender, const struct options *options, uint64_t datagrams)
{
    uint32_t most = BATCH / options->train * options->train;

    while (datagrams) {
        uint32_t wanted = datagrams < most ? (uint32_t)datagrams : most;
        int done;

        number(sender, options, wanted);
        done = sendmmsg(sender->fd, sender->messages, wanted / options->train, 0);
        if (done <= 0) {
            if (errno != ECONNREFUSED && errno != ENOBUFS && errno != EAGAIN)
                die("sendmmsg");
            /* Numbers are not used twice: a failed message is a gap that `failed` explains. */
            sender->failed += options->train;
            done = 1;
        }
        sender->sent += (uint64_t)done * options->train;
        datagrams -= (uint64_t)done * options->train;
    }
}

static int count_echoes(int fd, struct batch *batch, struct tally *tally)
{
    int count = receive_batch(fd, batch, MSG_DONTWAIT);

    for (int i = 0; i < count; i++)
        tally_message(tally, batch->views[i].iov_base, batch->messages[i].msg_len,
                      segment_size(&batch->messages[i]));
    return count;
}

/* Returns for how long it sent, in nanoseconds. */
static uint64_t generate(struct sender *sender, const struct options *options,
                         struct batch *batch, struct tally *tally)
{
    uint64_t start = now_ns(), now = start;
    uint64_t end = start + (uint64_t)(options->seconds * 1e9);

    while (sender->sent < options->count && now < end) {
        if (options->rate) {
            uint64_t due = start + sender->sent * 1000000000u / options->rate;

            if (due > now)
                sleep_until(due);
        }
        send_group(sender, options, options->group);
        while (options->echoes && count_echoes(sender->fd, batch, tally) == SLOTS)
            ;
        now = now_ns();
    }
    return now - start;
}

static void await_echoes(int fd, struct batch *batch, struct tally *tally)
{
    uint64_t quiet = now_ns() + QUIET_MS * 1000000u;

    while (now_ns() < quiet) {
        if (count_echoes(fd, batch, tally))
            quiet = now_ns() + QUIET_MS * 1000000u;
        else
            usleep(1000);
    }
}

static void await_path(int fd, struct batch *batch, double seconds)
{
    struct header probe = {.kind = PROBE};
    struct tally ignored = {.run = 0};
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);

    while (now_ns() < end) {
        (void)send(fd, &probe, sizeof probe, 0);
        for (int ms = 0; ms < PROBE_MS; ms++) {
            usleep(1000);
            if (count_echoes(fd, batch, &ignored))
                return;
        }
    }
    fprintf(stderr, "no probe came back\n");
    exit(EXIT_FAILURE);
}

static int open_load(const struct options *options)
{
    int on = 1;
    int fd = udp_socket(options->destination.name.ss_family,
                        options->bound.length ? &options->bound : NULL);

    if (connect(fd, (const struct sockaddr *)&options->destination.name,
                options->destination.length) < 0)
        die("connect");
    setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on);
    return fd;
}

static int usage(void)
{
    fprintf(stderr, "usage: load [-s SIZE] [-t TRAIN] [-r RATE] [-g GROUP] [-n COUNT] "
                    "[-d SECONDS] [-b IP:PORT] [-p SECONDS] [-w] [-e] DEST_IP:PORT\n");
    return 64;
}

static int read_options(struct options *options, int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "s:t:r:g:n:d:b:p:we")) != -1) {
        switch (option) {
        case 's': options->size = (uint32_t)atoi(optarg); break;
        case 't': options->train = (uint32_t)atoi(optarg); break;
        case 'r': options->rate = (uint32_t)atoi(optarg); break;
        case 'g': options->group = (uint32_t)atoi(optarg); break;
        case 'n': options->count = strtoull(optarg, NULL, 10); break;
        case 'd': options->seconds = atof(optarg); break;
        case 'b': options->bound = parse_address(optarg); break;
        case 'p': options->probing = atof(optarg); break;
        case 'w': options->waits = 1; break;
        case 'e': options->echoes = 1; break;
        default: return 0;
        }
    }
    if (optind + 1 != argc || options->size < sizeof(struct header) || options->train < 1 ||
        options->train > BATCH || options->train * options->size > 65507)
        return 0;
    options->destination = parse_address(argv[optind]);
    if (!options->group)
        options->group = options->rate ? options->rate / GROUPS_A_SECOND : BATCH;
    options->group -= options->group % options->train;
    if (!options->group)
        options->group = options->train;
    return 1;
}

int main(int argc, char **argv)
{
    static struct sender sender;
    struct options options = {.size = 1200, .train = 1, .count = 100000, .seconds = 10};
    struct tally tally = {.run = 0};

    if (!read_options(&options, argc, argv))
        return usage();
    prctl(PR_SET_TIMERSLACK, 1);
    struct batch *batch = new_batch();
    sender.fd = open_load(&options);
    prepare(&sender, &options);
    if (options.probing > 0)
        await_path(sender.fd, batch, options.probing);
    if (options.waits) {
        puts("ready");
        fflush(stdout);
        if (getchar() == EOF)
            return EXIT_FAILURE;
    }
    uint64_t elapsed = generate(&sender, &options, batch, &tally);
    if (options.echoes)
        await_echoes(sender.fd, batch, &tally);
    printf("{\"run\": %u, \"sent\": %llu, \"failed\": %llu, \"seconds\": %.6f, "
           "\"echoes\": %llu, \"late\": %llu, \"malformed\": %llu}\n",
           sender.run, (unsigned long long)sender.sent, (unsigned long long)sender.failed,
           (double)elapsed / 1e9, (unsigned long long)tally.received,
           (unsigned long long)tally.late, (unsigned long long)tally.malformed);
    return 0;
}
