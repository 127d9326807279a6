/* The peers of a relay: pairs of them make channels, then one of each pair sends numbered
 * datagrams and the other counts what arrives.
 *
 *     relay_load -k FILE [-c CHANNELS] [-s SIZE] [-t TRAIN] [-r RATE] [-n COUNT] [-d SECONDS]
 *                [-p SECONDS] [-l] [-a] RELAY_IP:PORT
 *
 *     -k  handshakes of 56 bytes each, one for each channel
 *     -c  channels, which take turns (default 1)
 *     -s  bytes of each datagram, at least 32; 0: from 64 to 1200 (default 1200)
 *     -t  datagrams sent as one message with UDP_SEGMENT (default 1: singly)
 *     -r  datagrams per second, evenly spaced (default 0: as fast as possible)
 *     -n  datagrams in all (default 100000)
 *     -d  end after this long at the latest (default 10)
 *     -p  for how long the channels may be coming up; status 1 if they don't (default 30)
 *     -l  measure how long each datagram is on its way
 *     -a  send nothing, but count the channels that are still alive
 *
 * Prints "ready" when datagrams pass on every channel, waits for a line on stdin, and prints a
 * JSON line when done. */

#include "relay_channels.h"

#include <sys/prctl.h>
#include <unistd.h>

enum {
    BATCH = 64,      /* datagrams to one sendmmsg, messages to one recvmmsg */
    SMALLEST = 64,   /* of mixed sizes */
    LARGEST = 1200,
    CHECK_EACH = 16, /* batches: one of so many is looked at datagram by datagram */
    QUIET_MS = 50,   /* no more will arrive after such a silence */
    SILENT_MS = 500, /* and nothing at all after such a one */
};

struct options {
    const char *handshakes;
    uint32_t size, train, rate;
    uint64_t count;
    double seconds, patience;
    int latency, alive;
};

struct messages {
    struct mmsghdr headers[BATCH];
    struct iovec views[BATCH];
    union ancillary controls[BATCH];
    uint8_t *bytes;
};

struct load {
    struct options options;
    struct channels channels;
    struct messages out, in;
    uint64_t *next, *expected; /* sequence numbers, by channel */
    uint64_t sent, failed, batches, last_ns;
    uint64_t received, messages, late, malformed, misdelivered, measured;
    uint32_t *latencies;
};

static void set_segment(struct msghdr *header, struct cmsghdr *control, uint16_t size)
{
    *control = (struct cmsghdr){.cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT,
                                .cmsg_len = CMSG_LEN(sizeof size)};
    memcpy(CMSG_DATA(control), &size, sizeof size);
    header->msg_controllen += CMSG_SPACE(sizeof size);
}

static void prepare_out(struct load *load)
{
    const struct options *options = &load->options;
    struct channels *channels = &load->channels;
    uint32_t size = options->size ? options->size : LARGEST, length = options->train * size;
    struct messages *out = &load->out;

    out->bytes = zeros(BATCH, size);
    for (uint32_t i = 0; i < BATCH / options->train; i++) {
        struct msghdr *header = &out->headers[i].msg_hdr;
        char *control = out->controls[i].bytes;

        out->views[i] = (struct iovec){out->bytes + i * length, length};
        *header = (struct msghdr){.msg_iov = &out->views[i], .msg_iovlen = 1,
                                  .msg_control = control};
        if (channels->count > 1) {
            header->msg_name = &channels->relay.name;
            header->msg_namelen = channels->relay.length;
            header->msg_controllen = CMSG_SPACE(sizeof(struct in_pktinfo));
            control += header->msg_controllen;
        }
        if (options->train > 1)
            set_segment(header, (struct cmsghdr *)control, (uint16_t)size);
    }
}

static void prepare(struct load *load)
{
    struct options *options = &load->options;
    struct messages *in = &load->in;

    open_channels(&load->channels, options->handshakes);
    load->next = zeros(load->channels.count, sizeof *load->next);
    load->expected = zeros(load->channels.count, sizeof *load->expected);
    if (options->latency)
        load->latencies = zeros(options->count, sizeof *load->latencies);
    prepare_out(load);
    in->bytes = zeros(BATCH, SLOT_SIZE);
    for (size_t i = 0; i < BATCH; i++) {
        in->views[i].iov_base = in->bytes + i * SLOT_SIZE;
        in->headers[i].msg_hdr = (struct msghdr){.msg_iov = &in->views[i], .msg_iovlen = 1,
                                                 .msg_control = &in->controls[i]};
    }
}

static uint32_t mixed_size(uint64_t number)
{
    uint32_t scattered = (uint32_t)(number * 0x9e3779b97f4a7c15u >> 32);

    return SMALLEST + scattered % (LARGEST - SMALLEST + 1);
}

/* Writes the stamps of so many trains, each of the next channel. */
static void number(struct load *load, uint32_t trains)
{
    const struct options *options = &load->options;
    struct stamp stamp = {.kind = NUMBERED, .run = load->channels.run, .sent_ns = now_ns()};

    for (uint32_t i = 0; i < trains; i++) {
        uint64_t train = load->sent / options->train + i;
        uint8_t *bytes = load->out.views[i].iov_base;

        stamp.channel = (uint32_t)(train % load->channels.count);
        if (load->channels.count > 1)
            set_source(&load->out.controls[i], stamp.channel);
        if (!options->size)
            load->out.views[i].iov_len = mixed_size(train);
        for (uint32_t j = 0; j < options->train; j++, bytes += options->size) {
            stamp.sequence = load->next[stamp.channel]++;
            memcpy(bytes, &stamp, sizeof stamp);
        }
    }
}

static void send_trains(struct load *load, uint32_t trains)
{
    number(load, trains);
    for (uint32_t i = 0; i < trains;) {
        int done = sendmmsg(load->channels.near, load->out.headers + i, trains - i, 0);

        if (done <= 0) {
            if (errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED)
                die("sendmmsg");
            load->failed += load->options.train;
            done = 1;
        }
        i += (uint32_t)done;
    }
    load->sent += trains * load->options.train;
}

/* Counts datagrams of one flow and size, of which the first has that stamp. */
static void count_datagrams(struct load *load, const struct stamp *stamp, uint32_t datagrams,
                            uint32_t size)
{
    uint64_t train = stamp->sequence * load->channels.count + stamp->channel; /* if singles */
    uint64_t *expected = &load->expected[stamp->channel];

    if (size != (load->options.size ? load->options.size : mixed_size(train)))
        load->malformed += datagrams;
    load->late += stamp->sequence < *expected;
    if (stamp->sequence + datagrams > *expected)
        *expected = stamp->sequence + datagrams;
    if (load->latencies && load->measured < load->options.count)
        load->latencies[load->measured++] = (uint32_t)(load->last_ns - stamp->sent_ns);
    load->received += datagrams;
}

/* `whole`: all bytes of the message are there, so that each datagram can be looked at. */
static void count_message(struct load *load, struct mmsghdr *message, int whole)
{
    const uint8_t *bytes = message->msg_hdr.msg_iov->iov_base;
    uint32_t length = message->msg_len, segment = segment_size(message);
    uint32_t step = whole ? segment : length;
    struct stamp stamp;

    load->messages++;
    for (uint32_t at = 0; at < length; at += step) {
        uint32_t size = length - at < step ? length - at : step;

        if (size < sizeof stamp) {
            load->malformed++;
            continue;
        }
        memcpy(&stamp, bytes + at, sizeof stamp);
        if (stamp.kind != NUMBERED || stamp.run != load->channels.run)
            continue; /* a handshake or probe that was repeated, or an earlier run's */
        if (stamp.channel >= load->channels.count) {
            load->malformed++;
            continue;
        }
        load->misdelivered += asked_address(&message->msg_hdr) != address_of(stamp.channel);
        count_datagrams(load, &stamp, (size + segment - 1) / segment,
                        size < segment ? size : segment);
    }
}

/* Counts what has arrived; returns the number of messages, at most a batch. Of most only the
 * first bytes are fetched: it is the relay that shall have the most to do. */
static int drain(struct load *load)
{
    int whole = load->batches % CHECK_EACH == 0, count;
    struct messages *in = &load->in;

    for (int i = 0; i < BATCH; i++) {
        in->views[i].iov_len = whole ? SLOT_SIZE : sizeof(struct stamp);
        in->headers[i].msg_hdr.msg_controllen = sizeof in->controls[i];
    }
    count = recvmmsg(load->channels.far, in->headers, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL);
    if (count <= 0)
        return 0;
    load->last_ns = now_ns();
    load->batches++;
    for (int i = 0; i < count; i++)
        count_message(load, &in->headers[i], whole);
    return count;
}

/* Without a sleep, which would end too late. */
static void await(struct load *load, uint64_t due)
{
    while (now_ns() < due)
        if (load->latencies)
            drain(load);
}

/* Returns the time from the first datagram to the last that arrived, in nanoseconds. */
static uint64_t generate(struct load *load)
{
    const struct options *options = &load->options;
    uint64_t start = now_ns(), end = start + (uint64_t)(options->seconds * 1e9);

    load->last_ns = start;
    while (load->sent < options->count && now_ns() < end) {
        if (options->rate)
            await(load, start + load->sent * 1000000000u / options->rate);
        send_trains(load, options->rate ? 1 : BATCH / options->train);
        while (drain(load) == BATCH)
            ;
    }
    for (uint64_t quiet = now_ns();
         now_ns() < quiet + (load->received ? QUIET_MS : SILENT_MS) * 1000000u;)
        if (drain(load))
            quiet = now_ns();
    return load->last_ns - start;
}

static int ascending(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;

    return (a > b) - (a < b);
}

/* What the receiving socket had no room for: this program's fault, not the relay's. */
static uint32_t dropped(int fd)
{
    enum { DROPS = 8, FIELDS = 16 }; /* SK_MEMINFO_DROPS */
    uint32_t memory[FIELDS] = {0};
    socklen_t length = sizeof memory;

    getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length);
    return memory[DROPS];
}

static void print_result(struct load *load, uint64_t elapsed)
{
    uint32_t *latencies = load->latencies;

    printf("{\"sent\": %llu, \"received\": %llu, \"messages\": %llu, \"late\": %llu, "
           "\"malformed\": %llu, \"misdelivered\": %llu, \"dropped\": %u, \"seconds\": %.6f",
           (unsigned long long)(load->sent - load->failed), (unsigned long long)load->received,
           (unsigned long long)load->messages, (unsigned long long)load->late,
           (unsigned long long)load->malformed, (unsigned long long)load->misdelivered,
           dropped(load->channels.far), (double)elapsed / 1e9);
    if (load->measured) {
        qsort(latencies, load->measured, sizeof *latencies, ascending);
        printf(", \"median_us\": %.3f, \"p99_us\": %.3f", latencies[load->measured / 2] / 1e3,
               latencies[load->measured * 99 / 100] / 1e3);
    }
    puts("}");
}

static int usage(void)
{
    fprintf(stderr, "usage: relay_load -k FILE [-c CHANNELS] [-s SIZE] [-t TRAIN] [-r RATE] "
                    "[-n COUNT] [-d SECONDS] [-p SECONDS] [-l] [-a] RELAY_IP:PORT\n");
    return 64;
}

static int read_options(struct load *load, int argc, char **argv)
{
    struct options *options = &load->options;
    int option;

    while ((option = getopt(argc, argv, "k:c:s:t:r:n:d:p:la")) != -1) {
        switch (option) {
        case 'k': options->handshakes = optarg; break;
        case 'c': load->channels.count = (uint32_t)atoi(optarg); break;
        case 's': options->size = (uint32_t)atoi(optarg); break;
        case 't': options->train = (uint32_t)atoi(optarg); break;
        case 'r': options->rate = (uint32_t)atoi(optarg); break;
        case 'n': options->count = strtoull(optarg, NULL, 10); break;
        case 'd': options->seconds = atof(optarg); break;
        case 'p': options->patience = atof(optarg); break;
        case 'l': options->latency = 1; break;
        case 'a': options->alive = 1; break;
        default: return 0;
        }
    }
    if (optind + 1 != argc || !options->handshakes || load->channels.count < 1 ||
        options->train < 1 || options->train > BATCH || options->train * options->size > 65507 ||
        (options->size ? options->size < sizeof(struct stamp) : options->train > 1))
        return 0;
    load->channels.relay = parse_address(argv[optind]);
    return load->channels.relay.name.ss_family == AF_INET;
}

int main(int argc, char **argv)
{
    static struct load load = {.options = {.size = 1200, .train = 1, .count = 100000,
                                           .seconds = 10, .patience = 30},
                               .channels = {.count = 1}};

    if (!read_options(&load, argc, argv))
        return usage();
    prctl(PR_SET_TIMERSLACK, 1);
    prepare(&load);
    bring_up(&load.channels, load.options.patience);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF)
        return EXIT_FAILURE;
    if (load.options.alive)
        printf("{\"alive\": %u}\n", count_alive(&load.channels));
    else
        print_result(&load, generate(&load));
    return 0;
}
