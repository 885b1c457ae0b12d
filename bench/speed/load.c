/* Send HTTP requests, take the time of each, and say it as JSON. One thread, epoll, keep-alive.
 *
 *     load --to 127.0.0.1:8080 --requests FILE --connections 32 --seconds 5 [--warm-up 1]     closed loop
 *     load --to ... --requests FILE --connections 200 --seconds 5 --rate 1000                 open loop
 *     load --to ... --path /v1/chat/completions --header 'Authorization: Bearer x' --body FILE ...
 *
 * --requests: whole HTTP requests, sent in turn: each as its length in decimal, a newline, and its bytes.
 * --count N instead of --seconds: so many requests. --drain S: wait so long for the answers at the end (10; with
 * --count, 120 in all).
 *
 * Closed loop: every connection has one request on its way. Open loop: request number i is due at i/rate; its latency
 * counts from then, also when no connection was free, so a server that stalls can't hide whom it kept waiting.
 * What was due during the warm-up is in "total", and nowhere else.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_EVENTS 512
#define HEAD_MAX 16384
#define PIECE 65536
#define COUNT_LIMIT_S 120
#define SECOND 1000000000ull

enum state { IDLE, HEAD, LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE };

/* One connection, and the call on it. Until its head is complete, what came of an answer is in `head`. */
struct conn {
    int fd, status, closes, watches_out;
    enum state state;
    size_t request, sent, left, head_len, line_len;
    uint64_t due_ns, first_ns, bytes;
    uint32_t events;
    int match; /* how much of "data:" the current line has shown; -1: it is another line */
    char line[64];
    struct conn *next_idle;
    char head[HEAD_MAX];
};

struct request {
    char *bytes;
    size_t len;
};

struct samples {
    uint64_t *ns;
    size_t len, cap;
};

static struct sockaddr_in server;
static struct request *requests;
static size_t request_count;
static struct conn *idle;
static int epoll_fd, timer_fd, timer_wanted;
static size_t connections = 1, next_request;
static double seconds = 0, warm_up = 0, rate = 0, drain = 10;
static uint64_t count, started, total, in_flight, in_window, broken, refused;
static uint64_t begin_ns, measure_ns, end_ns, next_due_ns, last_ns, interval_ns;
static uint64_t body_bytes, stream_events, statuses[600];
static struct samples latency, first_byte;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void add_sample(struct samples *s, uint64_t ns) {
    if (s->len == s->cap && !(s->ns = realloc(s->ns, (s->cap = s->cap ? 2 * s->cap : 65536) * sizeof *s->ns)))
        fail("realloc");
    s->ns[s->len++] = ns;
}

/* ---- Connections ---- */

static void watch(struct conn *c, int op, int out) {
    struct epoll_event e = {.events = out ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, op, c->fd, &e))
        fail("epoll_ctl");
    c->watches_out = out;
}

static void open_conn(struct conn *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&server, sizeof server))
        fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = IDLE;
    c->closes = 0;
    watch(c, EPOLL_CTL_ADD, 0);
}

static void reopen(struct conn *c) {
    close(c->fd);
    open_conn(c);
}

/* Whether one more may be sent, and when it was due. */
static int is_due(uint64_t now, uint64_t *due) {
    if ((count && started >= count) || (!count && (rate ? next_due_ns : now) >= end_ns))
        return 0;
    *due = rate ? next_due_ns : now;
    timer_wanted = *due > now;
    return !timer_wanted;
}

/* 0: the peer is gone. */
static int send_on(struct conn *c) {
    struct request *r = &requests[c->request];
    ssize_t n = send(c->fd, r->bytes + c->sent, r->len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN)
        return 0;
    if (n > 0)
        c->sent += (size_t)n;
    if (c->watches_out != (c->sent < r->len))
        watch(c, EPOLL_CTL_MOD, c->sent < r->len);
    return 1;
}

static void make_idle(struct conn *c) {
    c->state = IDLE;
    c->next_idle = idle;
    idle = c;
}

static void give_up(struct conn *c) {
    broken++;
    in_flight--;
    reopen(c);
    make_idle(c);
}

static void start_calls(void) {
    uint64_t due;
    while (idle && is_due(now_ns(), &due)) {
        struct conn *c = idle;
        idle = c->next_idle;
        c->state = HEAD;
        c->request = next_request;
        next_request = (next_request + 1) % request_count;
        c->sent = c->head_len = c->line_len = c->events = 0;
        c->bytes = c->first_ns = 0;
        c->match = 0;
        c->due_ns = due;
        next_due_ns = begin_ns + ++started * interval_ns;
        in_flight++;
        if (!send_on(c))
            give_up(c);
    }
    if (idle && timer_wanted) {
        struct itimerspec when = {.it_value = {(time_t)(next_due_ns / SECOND), (long)(next_due_ns % SECOND)}};
        timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    }
    timer_wanted = 0;
}

static void finish(struct conn *c) {
    uint64_t now = now_ns();
    total++;
    in_flight--;
    last_ns = now;
    if (now >= measure_ns && now <= end_ns)
        in_window++;
    if (c->due_ns >= measure_ns) {
        statuses[c->status]++;
        body_bytes += c->bytes;
        stream_events += c->events;
        if (c->status / 100 == 2) {
            add_sample(&latency, now - c->due_ns);
            add_sample(&first_byte, (c->first_ns ? c->first_ns : now) - c->due_ns);
        } else {
            refused++;
        }
    }
    if (c->closes)
        reopen(c);
    make_idle(c);
}

/* ---- Reading an answer ---- */

static void take_body(struct conn *c, const char *data, size_t len) {
    static const char word[] = "data:";
    if (!c->first_ns)
        c->first_ns = now_ns();
    c->bytes += len;
    for (const char *end = data + len; data < end;) {
        if (c->match < 0) {
            data = memchr(data, '\n', (size_t)(end - data));
            if (!data)
                return;
            c->match = 0;
            data++;
        } else if (*data == '\n') {
            c->match = 0;
            data++;
        } else if (*data++ != word[c->match]) {
            c->match = -1;
        } else if (++c->match == 5) {
            c->events++;
            c->match = -1;
        }
    }
}

static void read_head(struct conn *c) {
    c->status = c->head_len > 12 ? atoi(c->head + 9) : 0;
    c->status = c->status < 100 || c->status > 599 ? 0 : c->status;
    c->state = UNTIL_CLOSE;
    c->closes = 0;
    for (char *line = c->head; (line = strstr(line, "\r\n"));) {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15)) {
            c->left = strtoul(line + 15, NULL, 10);
            c->state = LENGTH;
        } else if (!strncasecmp(line, "transfer-encoding: chunked", 26)) {
            c->state = CHUNK_SIZE;
        } else if (!strncasecmp(line, "connection: close", 17)) {
            c->closes = 1;
        }
    }
}

/* Take what belongs to the head; how many of `len` bytes that were. */
static size_t take_head(struct conn *c, const char *data, size_t len) {
    size_t before = c->head_len, room = HEAD_MAX - 1 - before, n = len < room ? len : room;
    memcpy(c->head + before, data, n);
    c->head_len += n;
    c->head[c->head_len] = 0;
    char *from = c->head + (before > 3 ? before - 3 : 0), *end = strstr(from, "\r\n\r\n");
    if (!end) {
        if (n < len)
            fail("an answer's head is too long");
        return n;
    }
    c->head_len = (size_t)(end + 4 - c->head);
    end[2] = 0;
    read_head(c);
    return c->head_len - before;
}

/* A line of chunked coding; 1 when it is complete, without its end, in c->line. */
static int take_line(struct conn *c, char byte) {
    if (byte != '\n') {
        if (byte != '\r' && c->line_len < sizeof c->line - 1)
            c->line[c->line_len++] = byte;
        return 0;
    }
    c->line[c->line_len] = 0;
    c->line_len = 0;
    return 1;
}

/* 1 at the end of the answer. */
static int take_answer(struct conn *c, const char *data, size_t len) {
    for (const char *end = data + len; data < end;) {
        size_t here = (size_t)(end - data);
        if (c->state == HEAD) {
            data += take_head(c, data, here);
        } else if (c->state == UNTIL_CLOSE || c->state == LENGTH || c->state == CHUNK_DATA) {
            size_t n = c->state == UNTIL_CLOSE || here < c->left ? here : c->left;
            take_body(c, data, n);
            data += n;
            c->left -= c->state == UNTIL_CLOSE ? 0 : n;
            if (c->state == CHUNK_DATA && !c->left)
                c->state = CHUNK_END;
        } else if (take_line(c, *data++)) {
            if (c->state == TRAILER && !c->line[0])
                return 1;
            if (c->state == CHUNK_SIZE) {
                c->left = strtoul(c->line, NULL, 16);
                c->state = c->left ? CHUNK_DATA : TRAILER;
            } else if (c->state == CHUNK_END) {
                c->state = CHUNK_SIZE;
            }
        }
        if (c->state == LENGTH && !c->left)
            return 1;
    }
    return 0;
}

static void read_on(struct conn *c) {
    static char piece[PIECE];
    ssize_t n = recv(c->fd, piece, sizeof piece, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n > 0 && c->state != IDLE) {
        if (take_answer(c, piece, (size_t)n))
            finish(c);
    } else if (c->state == IDLE) {
        reopen(c); /* it was kept alive, and is not any more */
    } else if (c->state == UNTIL_CLOSE && n == 0) {
        c->closes = 1;
        finish(c);
    } else {
        give_up(c);
    }
}

static void run(void) {
    struct epoll_event events[MAX_EVENTS];
    uint64_t ticks, give_up_ns;
    begin_ns = next_due_ns = now_ns();
    measure_ns = begin_ns + (uint64_t)(warm_up * SECOND);
    end_ns = count ? UINT64_MAX : measure_ns + (uint64_t)(seconds * SECOND);
    give_up_ns = count ? begin_ns + COUNT_LIMIT_S * SECOND : end_ns + (uint64_t)(drain * SECOND);
    start_calls();
    while ((in_flight || (count ? started < count : now_ns() < end_ns)) && now_ns() < give_up_ns) {
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if ((void *)c == &timer_fd) {
                if (read(timer_fd, &ticks, sizeof ticks) < 0 && errno != EAGAIN)
                    fail("timerfd");
            } else if (events[i].events & EPOLLOUT && c->state == HEAD && !send_on(c)) {
                give_up(c);
            } else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                read_on(c);
            }
        }
        start_calls();
    }
}

/* ---- The report ---- */

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, struct samples *s) {
    static const struct { const char *name; double share; } row[] = {
        {"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}, {"max", 1}};
    double sum = 0;
    qsort(s->ns, s->len, sizeof *s->ns, compare);
    for (size_t i = 0; i < s->len; i++)
        sum += (double)s->ns[i];
    printf(" \"%s\": {\"mean\": %.1f", name, s->len ? sum / (double)s->len / 1000 : 0);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        size_t rank = (size_t)(row[i].share * (double)s->len); /* nearest rank, from 0 */
        if (rank >= s->len && rank)
            rank = s->len - 1;
        printf(", \"%s\": %.1f", row[i].name, s->len ? (double)s->ns[rank] / 1000 : 0);
    }
    printf("},\n");
}

static void report(void) {
    uint64_t until = count ? last_ns : end_ns;
    double window_s = until > measure_ns ? (double)(until - measure_ns) / SECOND : 0;
    const char *comma = "";
    printf("{\"total\": %llu, \"done\": %zu, \"refused\": %llu, \"broken\": %llu, \"unfinished\": %llu,\n",
           (unsigned long long)total, latency.len, (unsigned long long)refused, (unsigned long long)broken,
           (unsigned long long)in_flight);
    printf(" \"window_s\": %.6f, \"rate\": %.2f,\n \"statuses\": {", window_s,
           window_s > 0 ? (double)in_window / window_s : 0);
    for (int i = 0; i < 600; i++)
        if (statuses[i]) {
            printf("%s\"%d\": %llu", comma, i, (unsigned long long)statuses[i]);
            comma = ", ";
        }
    printf("},\n");
    print_samples("latency_us", &latency);
    print_samples("first_byte_us", &first_byte);
    printf(" \"body_bytes\": %llu, \"stream_events\": %llu}\n", (unsigned long long)body_bytes,
           (unsigned long long)stream_events);
}

/* ---- Options ---- */

static char *read_file(const char *name, size_t *len) {
    FILE *f = fopen(name, "rb");
    char *data = NULL;
    size_t cap = 0;
    *len = 0;
    if (!f)
        fail(name);
    do {
        if (*len + 1 >= cap && !(data = realloc(data, cap = cap ? 2 * cap : 65536)))
            fail("realloc");
        *len += fread(data + *len, 1, cap - *len - 1, f);
    } while (!feof(f) && !ferror(f));
    fclose(f);
    data[*len] = 0;
    return data;
}

static void add_request(char *bytes, size_t len) {
    requests = realloc(requests, (request_count + 1) * sizeof *requests);
    if (!requests)
        fail("realloc");
    requests[request_count++] = (struct request){bytes, len};
}

static void read_requests(const char *name) {
    size_t len;
    char *data = read_file(name, &len), *end = data + len;
    while (data < end) {
        char *bytes;
        size_t n = strtoul(data, &bytes, 10);
        if (*bytes != '\n' || bytes + 1 + n > end)
            errno = EINVAL, fail(name);
        add_request(bytes + 1, n);
        data = bytes + 1 + n;
    }
}

static void build_request(const char *to, const char *path, const char *headers, const char *body_file) {
    size_t len = 0;
    char *body = body_file ? read_file(body_file, &len) : "", *bytes = malloc(len + 16384);
    int head = snprintf(bytes, 16384, "%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %zu\r\n\r\n",
                        body_file ? "POST" : "GET", path, to, headers, len);
    memcpy(bytes + head, body, len);
    add_request(bytes, (size_t)head + len);
}

static int read_options(int argc, char **argv) {
    static char headers[8192] = "Content-Type: application/json\r\n";
    const char *to = NULL, *path = "/", *body = NULL, *file = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--to")) to = value;
        else if (!strcmp(name, "--path")) path = value;
        else if (!strcmp(name, "--body")) body = value;
        else if (!strcmp(name, "--requests")) file = value;
        else if (!strcmp(name, "--header")) strcat(strncat(headers, value, 2000), "\r\n");
        else if (!strcmp(name, "--connections")) connections = strtoul(value, NULL, 10);
        else if (!strcmp(name, "--count")) count = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--seconds")) seconds = atof(value);
        else if (!strcmp(name, "--warm-up")) warm_up = atof(value);
        else if (!strcmp(name, "--rate")) rate = atof(value);
        else if (!strcmp(name, "--drain")) drain = atof(value);
        else return 0;
    }
    char *colon = to ? strchr(to, ':') : NULL;
    if (!colon || argc % 2 == 0 || (!count && seconds <= 0) || !connections)
        return 0;
    char *host = strndup(to, (size_t)(colon - to));
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(colon + 1));
    if (!host || inet_pton(AF_INET, host, &server.sin_addr) != 1)
        return 0;
    if (file)
        read_requests(file);
    else
        build_request(to, path, headers, body);
    interval_ns = rate > 0 ? (uint64_t)(SECOND / rate) : 0;
    return request_count > 0;
}

int main(int argc, char **argv) {
    if (!read_options(argc, argv))
        return fprintf(stderr, "usage: see the head of load.c\n"), 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_TIMERSLACK, 1000);
    epoll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event t = {.events = EPOLLIN, .data.ptr = &timer_fd};
    struct conn *conns = calloc(connections, sizeof *conns);
    if (!conns || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &t))
        fail("epoll_ctl");
    for (size_t i = 0; i < connections; i++) {
        open_conn(&conns[i]);
        make_idle(&conns[i]);
    }
    run();
    report();
}
