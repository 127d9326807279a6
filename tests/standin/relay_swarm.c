/* udp-relay's load tester as one process: pairs of clients that shake hands without end.
 *
 *     relay_swarm RELAY_IP:PORT CLIENTS SECONDS SECRET_IN_HEX
 *
 * Two clients share a guid. Every 24 ms each sends its pair's next handshake, signed, of any
 * length from 56 to 1,472 bytes, and sends back every one of its partner's: with another magic,
 * so that the relay takes the answer for payload and the partner does not answer it again.
 * A client counts from when it first heard of its partner, since until then the relay has
 * nobody to relay to. At the end, one JSON line on stdout:
 *
 *     sent      handshakes that were counted
 *     answered  those of them that came back, unchanged but for the magic
 *     foreign   datagrams that no partner sent, or not so
 *     unpaired  clients that heard nothing
 *     seconds   spent sending
 *
 * Handshakes are signed before the clock starts, POOL of them for each guid; one that is
 * answered later than a whole round of them (POOL * 24 ms) may count for its successor. */

#include "../bench/bench.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    HEADER = 56,
    GUID = 16,
    GUID_AT = 8,
    MAC = 32,
    MAC_AT = 24,
    LARGEST = 1472,
    POOL = 64,
    MAX_CLIENTS = 1024,
    MAX_SECRET = 64,
    RECEIVED = 16,        /* datagrams taken from one socket at once */
    INTERVAL_NS = 24000000,
    TICK_NS = 1000000,    /* how often sockets and due clients are looked at */
    LINGER_TICKS = 2000,  /* how long answers are waited for at the end */
};

static const uint8_t MAGIC[4] = {0x04, 0xb2, 0x80, 0x00};
static const uint8_t ANSWER[4] = {0x41, 0x4e, 0x53, 0x57};

/* --- HMAC-SHA-256 (FIPS 180-4, RFC 2104) ----------------------------------------------- */

enum { BLOCK = 64 };

struct sha256 {
    uint32_t state[8];
    uint64_t length;
    uint8_t block[BLOCK];
};

static const uint32_t ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t word, int by)
{
    return word >> by | word << (32 - by);
}

static void compress(uint32_t state[8], const uint8_t block[BLOCK])
{
    uint32_t words[64], v[8];

    for (int i = 0; i < 16; i++)
        words[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
                   (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = words[i - 15], b = words[i - 2];

        words[i] = words[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + words[i - 7] +
                   (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    memcpy(v, state, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = v[4], a = v[0];
        uint32_t one = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                       ((e & v[5]) ^ (~e & v[6])) + ROUND[i] + words[i];
        uint32_t two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                       ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));

        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += one;
        v[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

static void sha256_start(struct sha256 *hash)
{
    *hash = (struct sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                                      0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

static void sha256_add(struct sha256 *hash, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        hash->block[hash->length++ % BLOCK] = bytes[i];
        if (hash->length % BLOCK == 0)
            compress(hash->state, hash->block);
    }
}

static void sha256_end(struct sha256 *hash, uint8_t digest[MAC])
{
    static const uint8_t padding[BLOCK] = {0x80};
    uint64_t bits = hash->length * 8;
    uint8_t length[8];

    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(hash, padding, 1 + (119 - hash->length % BLOCK) % BLOCK);
    sha256_add(hash, length, sizeof length);
    for (int i = 0; i < MAC; i++)
        digest[i] = (uint8_t)(hash->state[i / 4] >> (24 - 8 * (i % 4)));
}

struct secret {
    uint8_t bytes[MAX_SECRET];
    size_t length;
};

static void hmac(const struct secret *secret, const uint8_t *bytes, size_t length,
                 uint8_t mac[MAC])
{
    uint8_t inner[BLOCK], outer[BLOCK];
    struct sha256 hash;

    for (size_t i = 0; i < BLOCK; i++) {
        uint8_t octet = i < secret->length ? secret->bytes[i] : 0;

        inner[i] = octet ^ 0x36;
        outer[i] = octet ^ 0x5c;
    }
    sha256_start(&hash);
    sha256_add(&hash, inner, BLOCK);
    sha256_add(&hash, bytes, length);
    sha256_end(&hash, mac);
    sha256_start(&hash);
    sha256_add(&hash, outer, BLOCK);
    sha256_add(&hash, mac, MAC);
    sha256_end(&hash, mac);
}

/* --- pairs and clients ----------------------------------------------------------------- */

struct handshake {
    uint16_t length;
    uint8_t bytes[LARGEST];
};

struct pair {
    struct handshake pool[POOL];
    uint8_t marks[POOL]; /* the first byte of each one's mac: most others differ in it */
};

struct client {
    int fd;
    struct pair *pair;
    int next;                  /* of the pool */
    uint64_t due;
    uint64_t sent, answered, foreign;
    int paired;
    uint8_t outstanding[POOL]; /* counted, and not yet answered */
};

static void fill_random(uint8_t *bytes, size_t length)
{
    static FILE *random;

    if (!random && !(random = fopen("/dev/urandom", "rb")))
        die("/dev/urandom");
    if (fread(bytes, 1, length, random) != length)
        die("/dev/urandom");
}

static void sign_pool(struct pair *pair, const struct secret *secret)
{
    uint8_t guid[GUID];

    fill_random(guid, sizeof guid);
    for (int i = 0; i < POOL; i++) {
        struct handshake *each = &pair->pool[i];
        uint16_t more;

        fill_random((uint8_t *)&more, sizeof more);
        more %= LARGEST - HEADER + 1;
        each->length = (uint16_t)(HEADER + more);
        memset(each->bytes, 0, HEADER);
        memcpy(each->bytes, MAGIC, sizeof MAGIC);
        each->bytes[4] = (uint8_t)(more >> 8);
        each->bytes[5] = (uint8_t)more;
        /* The flags have no meaning yet. Here they tell those of the same length apart. */
        each->bytes[7] = (uint8_t)i;
        memcpy(each->bytes + GUID_AT, guid, GUID);
        fill_random(each->bytes + HEADER, more);
        hmac(secret, each->bytes, each->length, each->bytes + MAC_AT);
        pair->marks[i] = each->bytes[MAC_AT];
    }
}

/* Which of the pool came, leaving out the magic; -1 for none. */
static int find_handshake(const struct pair *pair, const uint8_t *bytes, size_t length)
{
    if (length < HEADER)
        return -1;
    for (int i = 0; i < POOL; i++) {
        const struct handshake *each = &pair->pool[i];

        if (pair->marks[i] == bytes[MAC_AT] && each->length == length &&
            memcmp(each->bytes + sizeof MAGIC, bytes + sizeof MAGIC, length - sizeof MAGIC) == 0)
            return i;
    }
    return -1;
}

static void send_handshake(struct client *client)
{
    const struct handshake *next = &client->pair->pool[client->next];

    if (client->paired) {
        client->sent++;
        client->outstanding[client->next] = 1;
    }
    /* When the relay is not there, or the queue is full, it is as lost as on the way. */
    (void)send(client->fd, next->bytes, next->length, 0);
    client->next = (client->next + 1) % POOL;
}

static void take(struct client *client, uint8_t *bytes, size_t length)
{
    int which = find_handshake(client->pair, bytes, length);

    if (which >= 0 && memcmp(bytes, MAGIC, sizeof MAGIC) == 0) {
        memcpy(bytes, ANSWER, sizeof ANSWER);
        (void)send(client->fd, bytes, length, 0);
    } else if (which >= 0 && memcmp(bytes, ANSWER, sizeof ANSWER) == 0) {
        client->answered += client->outstanding[which];
        client->outstanding[which] = 0;
    } else {
        client->foreign++;
        return;
    }
    client->paired = 1;
}

static void receive_all(struct client *client)
{
    static uint8_t bytes[RECEIVED][LARGEST + 1];
    struct mmsghdr messages[RECEIVED];
    struct iovec views[RECEIVED];
    int count;

    do {
        for (int i = 0; i < RECEIVED; i++) {
            views[i] = (struct iovec){.iov_base = bytes[i], .iov_len = sizeof bytes[i]};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &views[i], .msg_iovlen = 1};
        }
        count = recvmmsg(client->fd, messages, RECEIVED, MSG_DONTWAIT, NULL);
        for (int i = 0; i < count; i++)
            take(client, bytes[i], messages[i].msg_len);
    } while (count == RECEIVED);
}

static void receive_waiting(int epoll)
{
    static struct epoll_event events[MAX_CLIENTS];
    int count = epoll_wait(epoll, events, MAX_CLIENTS, 0);

    for (int i = 0; i < count; i++)
        receive_all(events[i].data.ptr);
}

/* Sleeping out each tick, rather than waking for each datagram, leaves the CPU to the relay. */
static void sleep_until(uint64_t due)
{
    struct timespec wake = {.tv_sec = (time_t)(due / 1000000000u),
                            .tv_nsec = (long)(due % 1000000000u)};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL);
}

static void open_clients(struct client *clients, int count, const struct address *relay,
                         struct pair *pairs, int epoll)
{
    uint64_t start = now_ns();

    for (int i = 0; i < count; i++) {
        struct client *client = &clients[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};

        client->fd = udp_socket(relay->name.ss_family, NULL);
        if (connect(client->fd, (const struct sockaddr *)&relay->name, relay->length) < 0)
            die("connect");
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, client->fd, &event) < 0)
            die("epoll_ctl");
        client->pair = &pairs[i / 2];
        client->next = i % 2 * POOL / 2;
        client->due = start + (uint64_t)i * INTERVAL_NS / (uint64_t)count;
    }
}

static void send_due(struct client *clients, int count)
{
    uint64_t now = now_ns();

    for (int i = 0; i < count; i++) {
        if (clients[i].due > now)
            continue;
        send_handshake(&clients[i]);
        clients[i].due += INTERVAL_NS;
        if (clients[i].due <= now) /* held up: the missed ones are not made up for */
            clients[i].due = now + INTERVAL_NS;
    }
}

static int all_answered(const struct client *clients, int count)
{
    for (int i = 0; i < count; i++)
        if (clients[i].answered < clients[i].sent)
            return 0;
    return 1;
}

static void report(const struct client *clients, int count, double seconds)
{
    unsigned long long sent = 0, answered = 0, foreign = 0;
    int unpaired = 0;

    for (int i = 0; i < count; i++) {
        sent += clients[i].sent;
        answered += clients[i].answered;
        foreign += clients[i].foreign;
        unpaired += !clients[i].paired;
    }
    printf("{\"sent\": %llu, \"answered\": %llu, \"foreign\": %llu, \"unpaired\": %d, "
           "\"seconds\": %.3f}\n",
           sent, answered, foreign, unpaired, seconds);
}

static struct secret parse_secret(const char *hex)
{
    struct secret secret = {.length = strlen(hex) / 2};

    if (strlen(hex) % 2 || secret.length > sizeof secret.bytes) {
        fprintf(stderr, "the secret is 0 to %d bytes in hexadecimal\n", MAX_SECRET);
        exit(64);
    }
    for (size_t i = 0; i < secret.length; i++)
        if (sscanf(hex + 2 * i, "%2hhx", &secret.bytes[i]) != 1)
            exit(64);
    return secret;
}

static void permit_many_sockets(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("setrlimit");
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: relay_swarm RELAY_IP:PORT CLIENTS SECONDS SECRET_IN_HEX\n");
        return 64;
    }
    struct address relay = parse_address(argv[1]);
    int count = atoi(argv[2]);
    double seconds = atof(argv[3]);
    struct secret secret = parse_secret(argv[4]);
    if (count < 2 || count % 2 || count > MAX_CLIENTS || seconds <= 0) {
        fprintf(stderr, "clients: an even number up to %d; seconds: more than 0\n", MAX_CLIENTS);
        return 64;
    }
    struct client *clients = calloc((size_t)count, sizeof *clients);
    struct pair *pairs = calloc((size_t)count / 2, sizeof *pairs);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!clients || !pairs || epoll < 0)
        die("relay_swarm");
    permit_many_sockets();
    for (int i = 0; i < count / 2; i++)
        sign_pool(&pairs[i], &secret);
    open_clients(clients, count, &relay, pairs, epoll);

    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9);
    while (now_ns() < end) {
        uint64_t tick = now_ns() + TICK_NS;

        send_due(clients, count);
        receive_waiting(epoll);
        sleep_until(tick);
    }
    uint64_t ended = now_ns();
    for (int i = 0; i < LINGER_TICKS && !all_answered(clients, count); i++) {
        receive_waiting(epoll);
        sleep_until(now_ns() + TICK_NS);
    }
    report(clients, count, (double)(ended - start) / 1e9);
    return 0;
}
