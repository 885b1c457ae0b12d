/* A stand-in for a model's HTTP server, so fast that a gateway in front of it is what is measured.
 *
 * Any POST is answered with one OpenAI chat completion of about 1 KB, or, if its body says "stream":true, with
 * server-sent events of about 200 bytes, each in one write and one HTTP chunk. One thread, epoll, keep-alive.
 *
 *     upstream --port 9000 [--delay-us 0] [--gap-us 0] [--chunks 64]
 *
 * delay: before an answer begins. gap: between the events of a stream. All three can be changed while it runs, with
 * POST /_set?delay_us=50000&gap_us=0&chunks=64. GET /_count answers {"answers": N}. Port 0 takes a free one; the
 * line "port N" on stdout says that it serves.
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
#define FIRST_BUFFER 8192
#define MAX_REQUEST (16u << 20)

enum kind { PLAIN, STREAM };

/* One connection. An answer is a row of pieces; `next` is the one to write, `offset` where in it. */
struct conn {
    int fd;
    char *in;
    size_t in_len, in_cap;
    int answering, watches_out;
    enum kind kind;
    int chunks, next;
    const char *piece;
    size_t piece_len, offset;
    char own[256]; /* an answer made for this call only */
    uint64_t due_ns;
    struct queue *queue; /* where it waits, or NULL */
    struct conn *before, *after;
};

/* Those who wait equally long, so that the first to come is the first to go. */
struct queue {
    struct conn *first, *last;
};

static uint64_t delay_us, gap_us, answers;
static int chunks_per_stream = 64;
static struct queue delayed, paced;
static int epoll_fd, timer_fd, listen_fd;
static char plain[4096], event_chunk[1024], stream_head[512], stream_end[1024];
static size_t plain_len, event_len, head_len, end_len;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Write `data` as one HTTP chunk to `to`; its length. */
static size_t as_chunk(char *to, const char *data) {
    return (size_t)sprintf(to, "%zx\r\n%s\r\n", strlen(data), data);
}

static void prepare_answers(void) {
    static char text[1024], body[2048], data[1024];
    const char *words = "The budget holds what a call may cost before it leaves, and posts what it did cost. ";
    while (strlen(text) + strlen(words) < 640)
        strcat(text, words);
    sprintf(body,
            "{\"id\":\"chatcmpl-bench0000000000000000000000\",\"object\":\"chat.completion\",\"created\":1767225600,"
            "\"model\":\"bench-model\",\"system_fingerprint\":\"fp_bench\",\"choices\":[{\"index\":0,\"message\":"
            "{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":null},\"logprobs\":null,"
            "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":38,\"completion_tokens\":64,"
            "\"total_tokens\":102}}",
            text);
    plain_len = (size_t)sprintf(plain,
                                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                                strlen(body), body);
    const char *frame = "data: {\"id\":\"chatcmpl-bench0000000000000000000000\",\"object\":\"chat.completion.chunk\","
                        "\"created\":1767225600,\"model\":\"bench-model\",\"choices\":[%s]%s}\n\n";
    head_len = (size_t)sprintf(stream_head, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                            "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n");
    sprintf(data, frame, "{\"index\":0,\"delta\":{\"content\":\" token\"},\"finish_reason\":null}", "");
    event_len = as_chunk(event_chunk, data);
    sprintf(data, frame, "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}", "");
    end_len = as_chunk(stream_end, data);
    sprintf(data, frame, "",
            ",\"usage\":{\"prompt_tokens\":38,\"completion_tokens\":64,\"total_tokens\":102}");
    end_len += as_chunk(stream_end + end_len, data);
    end_len += as_chunk(stream_end + end_len, "data: [DONE]\n\n");
    end_len += (size_t)sprintf(stream_end + end_len, "0\r\n\r\n");
}

/* ---- Waiting ---- */

static void set_timer(void) {
    uint64_t due = 0;
    if (delayed.first)
        due = delayed.first->due_ns;
    if (paced.first && (!due || paced.first->due_ns < due))
        due = paced.first->due_ns;
    struct itimerspec when = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL); /* 0 disarms */
}

static void leave_queue(struct conn *c) {
    struct queue *q = c->queue;
    if (!q)
        return;
    *(c->before ? &c->before->after : &q->first) = c->after;
    *(c->after ? &c->after->before : &q->last) = c->before;
    c->queue = NULL;
    c->before = c->after = NULL;
}

static void wait_in(struct queue *q, struct conn *c, uint64_t us) {
    c->due_ns = now_ns() + us * 1000;
    c->queue = q;
    c->before = q->last;
    c->after = NULL;
    *(q->last ? &q->last->after : &q->first) = c;
    q->last = c;
    if (q->first == c)
        set_timer();
}

static void drop_conn(struct conn *c) {
    leave_queue(c);
    close(c->fd);
    free(c->in);
    free(c);
}

static void watch_out(struct conn *c, int wanted) {
    if (c->watches_out == wanted)
        return;
    struct epoll_event e = {.events = wanted ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    c->watches_out = wanted;
}

/* ---- Answering ---- */

/* Choose the piece to write; 0 after the last one. A stream: head, events, end. */
static int choose_piece(struct conn *c) {
    if (c->kind == PLAIN)
        return c->next == 0;
    if (c->next == 0)
        c->piece = stream_head, c->piece_len = head_len;
    else if (c->next <= c->chunks)
        c->piece = event_chunk, c->piece_len = event_len;
    else if (c->next == c->chunks + 1)
        c->piece = stream_end, c->piece_len = end_len;
    else
        return 0;
    return 1;
}

/* Write until the end, a pause or a full socket. 0: the peer is gone. */
static int write_on(struct conn *c) {
    while (choose_piece(c)) {
        ssize_t n = send(c->fd, c->piece + c->offset, c->piece_len - c->offset, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return 0;
        if (n > 0)
            c->offset += (size_t)n;
        if (c->offset < c->piece_len) {
            watch_out(c, 1);
            return 1;
        }
        c->offset = 0;
        c->next++;
        if (c->kind == STREAM && gap_us && c->next > 1 && c->next <= c->chunks) {
            watch_out(c, 0);
            wait_in(&paced, c, gap_us);
            return 1;
        }
    }
    watch_out(c, 0);
    c->answering = 0;
    return 1;
}

static void say(struct conn *c, const char *json) {
    c->kind = PLAIN;
    c->piece_len = (size_t)snprintf(c->own, sizeof c->own,
                                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                    "Content-Length: %zu\r\n\r\n%s", strlen(json), json);
    c->piece = c->own;
}

/* Requests for the stand-in itself; 0 if this is not one. */
static int is_command(struct conn *c, const char *end) {
    char json[64], *at;
    if (strncmp(c->in, "GET /_count", 11) == 0) {
        snprintf(json, sizeof json, "{\"answers\": %llu}", (unsigned long long)answers);
        say(c, json);
        return 1;
    }
    if (strncmp(c->in, "POST /_set?", 11))
        return 0;
    size_t length = (size_t)(end - c->in);
    if ((at = memmem(c->in, length, "delay_us=", 9)))
        delay_us = strtoull(at + 9, NULL, 10);
    if ((at = memmem(c->in, length, "gap_us=", 7)))
        gap_us = strtoull(at + 7, NULL, 10);
    if ((at = memmem(c->in, length, "chunks=", 7)))
        chunks_per_stream = atoi(at + 7);
    say(c, "{}");
    return 1;
}

static int begin_answer(struct conn *c, const char *head_end, size_t total) {
    size_t body_len = total - (size_t)(head_end - c->in);
    int command = is_command(c, head_end);
    if (!command) {
        int streams = memmem(head_end, body_len, "\"stream\":true", 13) ||
                      memmem(head_end, body_len, "\"stream\": true", 14);
        c->kind = streams ? STREAM : PLAIN;
        c->piece = plain;
        c->piece_len = plain_len;
        answers++;
    }
    c->chunks = chunks_per_stream;
    c->next = 0;
    c->offset = 0;
    c->answering = 1;
    memmove(c->in, c->in + total, c->in_len - total);
    c->in_len -= total;
    if (delay_us && !command) {
        wait_in(&delayed, c, delay_us);
        return 1;
    }
    return write_on(c);
}

/* The request's length once all of it is here; 0 before. */
static size_t request_length(struct conn *c, char **head_end) {
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *head_end = end + 4;
    size_t head = (size_t)(end + 4 - c->in), body = 0;
    for (char *line = c->in; line && line < end; line = memmem(line, (size_t)(end - line), "\r\n", 2)) {
        line += line == c->in ? 0 : 2;
        if (strncasecmp(line, "content-length:", 15) == 0)
            body = strtoul(line + 15, NULL, 10);
        if (strncasecmp(line, "transfer-encoding:", 18) == 0) {
            char *last = memmem(end + 4, c->in_len - head, "0\r\n\r\n", 5);
            return last ? (size_t)(last + 5 - c->in) : 0;
        }
    }
    return c->in_len >= head + body ? head + body : 0;
}

/* Read what is there, and answer if it is a whole request. 0: the peer is gone. */
static int read_on(struct conn *c) {
    if (c->in_len + 1 >= c->in_cap) {
        if (c->in_cap > MAX_REQUEST)
            return 0;
        c->in = realloc(c->in, c->in_cap *= 2);
        if (!c->in)
            fail("realloc");
    }
    ssize_t n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len - 1, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        return 0;
    if (n > 0)
        c->in_len += (size_t)n;
    c->in[c->in_len] = 0;
    char *head_end = NULL;
    size_t total = c->answering ? 0 : request_length(c, &head_end);
    return total ? begin_answer(c, head_end, total) : 1;
}

static void wake(struct queue *q) {
    uint64_t now = now_ns();
    while (q->first && q->first->due_ns <= now) {
        struct conn *c = q->first;
        leave_queue(c);
        if (!write_on(c))
            drop_conn(c);
    }
}

static void accept_all(void) {
    int fd, one = 1;
    while ((fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct conn *c = calloc(1, sizeof *c);
        if (!c || !(c->in = malloc(c->in_cap = FIRST_BUFFER)))
            fail("malloc");
        c->fd = fd;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t length = sizeof address;
    int one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listen_fd, (struct sockaddr *)&address, length) || listen(listen_fd, 4096))
        fail("listen");
    getsockname(listen_fd, (struct sockaddr *)&address, &length);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void serve(void) {
    struct epoll_event events[MAX_EVENTS];
    uint64_t ticks;
    for (;;) {
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, -1), timer = 0;
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if ((void *)c == &listen_fd)
                accept_all();
            else if ((void *)c == &timer_fd)
                timer = read(timer_fd, &ticks, sizeof ticks) > 0;
            else if (((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !read_on(c)) ||
                     (c->answering && c->watches_out && (events[i].events & EPOLLOUT) && !write_on(c)))
                drop_conn(c); /* nobody else has it: each appears once in `events` */
        }
        if (timer) {
            wake(&delayed);
            wake(&paced);
            set_timer();
        }
    }
}

int main(int argc, char **argv) {
    int port = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port"))
            port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--delay-us"))
            delay_us = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--gap-us"))
            gap_us = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--chunks"))
            chunks_per_stream = atoi(argv[i + 1]);
        else
            return fprintf(stderr, "unknown option %s\n", argv[i]), 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_TIMERSLACK, 1000);
    prepare_answers();
    epoll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    listen_on(port);
    struct epoll_event a = {.events = EPOLLIN, .data.ptr = &listen_fd}, t = {.events = EPOLLIN, .data.ptr = &timer_fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &a) || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &t))
        fail("epoll_ctl");
    serve();
}
