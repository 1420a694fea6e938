/*
 * A TCP relay on the loopback interface that makes a network far away of it:
 *
 *   delay_proxy LISTEN_PORT TARGET_PORT ONE_WAY_DELAY_US
 *
 * Whatever is read from one side is written to the other side that much later, in order. Each direction of each
 * connection is a thread of its own, so a slow reader holds up nobody but its own sender: a direction that has WAITING
 * pieces on the way reads no more until the first of them is written, as a full network would. Runs until it is killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 64 * 1024, WAITING = 64, STACK = 256 * 1024 };

struct piece {
	uint64_t due_ns;
	size_t length;
	char *bytes;
};

/* Two directions share the descriptors; the last of them to end closes both. */
struct connection {
	int client, server;
	int ends;
};

struct direction {
	struct connection *of;
	int from, to;
};

static uint64_t delay_ns;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void *allocated(size_t size)
{
	void *memory = malloc(size);
	if (!memory)
		fail("malloc");
	return memory;
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + now.tv_nsec;
}

static int write_all(int fd, const char *bytes, size_t length)
{
	while (length) {
		ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		bytes += n;
		length -= n;
	}
	return 0;
}

/* Relays until the sender has ended and all is delivered, or one side is gone. */
static void relay(int from, int to)
{
	static __thread char buffer[PIECE];
	struct piece ring[WAITING];
	unsigned first = 0, count = 0;
	int more = 1;

	while (more || count) {
		struct pollfd readable = {.fd = from, .events = POLLIN};
		struct timespec pause, *until = NULL;
		if (count) {
			uint64_t now = now_ns(), due = ring[first].due_ns;
			uint64_t left = due > now ? due - now : 0;
			pause = (struct timespec){left / 1000000000u, left % 1000000000u};
			until = &pause;
		}
		int ready = ppoll(&readable, more && count < WAITING ? 1 : 0, until, NULL);
		if (ready < 0 && errno != EINTR)
			break;
		if (ready > 0) {
			ssize_t n = recv(from, buffer, sizeof buffer, 0);
			if (n > 0) {
				struct piece *last = &ring[(first + count++) % WAITING];
				*last = (struct piece){now_ns() + delay_ns, n, allocated(n)};
				memcpy(last->bytes, buffer, n);
			} else {
				more = 0;
			}
		}
		while (count && ring[first].due_ns <= now_ns()) {
			int gone = write_all(to, ring[first].bytes, ring[first].length);
			free(ring[first].bytes);
			first = (first + 1) % WAITING;
			count--;
			if (gone)
				more = 0;
		}
	}
	shutdown(to, SHUT_WR);
}

static void *run(void *argument)
{
	struct direction *own = argument;
	/* The usual slack of timers, 50 us, would be part of each delay. */
	prctl(PR_SET_TIMERSLACK, 1);
	relay(own->from, own->to);
	if (__atomic_add_fetch(&own->of->ends, 1, __ATOMIC_SEQ_CST) == 2) {
		close(own->of->client);
		close(own->of->server);
		free(own->of);
	}
	free(own);
	return NULL;
}

static void start(pthread_attr_t *attributes, struct connection *of, int from, int to)
{
	struct direction *own = allocated(sizeof *own);
	pthread_t thread;
	*own = (struct direction){of, from, to};
	if (pthread_create(&thread, attributes, run, own) != 0)
		fail("pthread_create");
}

static struct sockaddr_in loopback(const char *port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons(atoi(port)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

int main(int argc, char **argv)
{
	int one = 1;
	if (argc != 4) {
		fprintf(stderr, "usage: delay_proxy LISTEN_PORT TARGET_PORT ONE_WAY_DELAY_US\n");
		return 2;
	}
	struct sockaddr_in own = loopback(argv[1]), target = loopback(argv[2]);
	delay_ns = strtoull(argv[3], NULL, 10) * 1000;

	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&own, sizeof own) < 0 || listen(listener, 512) < 0)
		fail("listen");

	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK);
	for (;;) {
		int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (client < 0)
			continue;
		int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (server < 0 || connect(server, (struct sockaddr *)&target, sizeof target) < 0) {
			perror("connect");
			close(client);
			if (server >= 0)
				close(server);
			continue;
		}
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		struct connection *of = allocated(sizeof *of);
		*of = (struct connection){client, server, 0};
		start(&attributes, of, client, server);
		start(&attributes, of, server, client);
	}
}
