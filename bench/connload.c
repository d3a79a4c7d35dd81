/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many connections at once, many new ones, and openings that nobody means.
 *
 *   connload serve PORT PORTS                      answer bytes with themselves on PORTS ports
 *   connload hold  ADDRESS PORT PORTS N            open N connections; for each line on standard
 *                                                  input send a byte on every one of them
 *   connload rate  ADDRESS PORT PORTS RATE SECONDS open RATE a second: a byte there and back, reset
 *   connload flood ADDRESS PORT RATE SECONDS       RATE SYNs a second from random ports: every
 *                                                  eighth to PORT, the others to random ports
 *
 * IPv4. Every command ends by itself: with its time, or with standard input. Results are JSON lines.
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
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, BATCH = 256, SAMPLES = 2000000, GROUP = 64 };

static const double PATIENCE = 60;
static float latency[SAMPLES];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void until(double when)
{
	double left = when - now();

	if (left > 0)
		usleep(left * 1e6);
}

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static struct sockaddr_in address(const char *text, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, text, &to.sin_addr);
	return to;
}

static void watch(int poll, int fd, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.fd = fd };

	if (epoll_ctl(poll, EPOLL_CTL_MOD, fd, &e))
		epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e);
}

/* A port's own process: a process may have few files where limits are hard. */
static void answer(int listener)
{
	int poll = epoll_create1(0);
	struct epoll_event events[EVENTS];
	char buffer[64];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	watch(poll, listener, EPOLLIN);
	for (;;) {
		int n = epoll_wait(poll, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd, fresh;
			ssize_t got;

			if (fd == listener) {
				while ((fresh = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0)
					watch(poll, fresh, EPOLLIN);
				continue;
			}
			got = recv(fd, buffer, sizeof(buffer), 0);
			if (got > 0)
				send(fd, buffer, got, MSG_NOSIGNAL);
			else if (got == 0 || errno != EAGAIN)
				close(fd);
		}
	}
}

static int serve(int first, int ports)
{
	int one = 1;

	for (int i = 0; i < ports; i++) {
		struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(first + i) };
		int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(listener, (struct sockaddr *)&any, sizeof(any)) ||
		    listen(listener, 65535)) {
			perror("connload serve");
			return 1;
		}
		if (!fork())
			answer(listener);
		close(listener);
	}
	printf("ready\n");
	fflush(stdout);
	pause();
	return 0;
}

/* Waits until every one of `fds` that is not -1 is ready; those with errors become -1. */
static int await(int poll, int *fds, int *index, int count, uint32_t wanted)
{
	struct epoll_event events[EVENTS];
	double limit = now() + PATIENCE;
	int left = count, good = 0;

	while (left > 0 && now() < limit) {
		int n = epoll_wait(poll, events, EVENTS, 1000);

		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd, slot = index[fd], error = 0;
			socklen_t size = sizeof(error);
			char byte;

			epoll_ctl(poll, EPOLL_CTL_DEL, fd, NULL);
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
			left--;
			if (error || (wanted == EPOLLIN && recv(fd, &byte, 1, 0) != 1)) {
				close(fd);
				fds[slot] = -1;
			} else {
				good++;
			}
		}
	}
	return good;
}

static int hold(const char *to, int port, int ports, int count)
{
	int poll = epoll_create1(0), open = 0, *fds = calloc(count, sizeof(int));
	int *index = calloc(count + 4096, sizeof(int));
	char line[64];

	for (int i = 0; i < count; i += BATCH) {
		int wanted = count - i < BATCH ? count - i : BATCH;

		for (int k = i; k < i + wanted; k++) {
			struct sockaddr_in peer = address(to, port + k % ports);

			fds[k] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
			if (fds[k] < 0 || fds[k] >= count + 4096) {
				perror("connload hold");
				return 1;
			}
			index[fds[k]] = k;
			connect(fds[k], (struct sockaddr *)&peer, sizeof(peer));
			watch(poll, fds[k], EPOLLOUT);
		}
		open += await(poll, fds, index, wanted, EPOLLOUT);
	}
	printf("{\"open\": %d}\n", open);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		int alive = 0;

		for (int i = 0; i < count; i += BATCH) {
			int asked = 0;

			for (int k = i; k < count && k < i + BATCH; k++)
				if (fds[k] >= 0 && send(fds[k], "x", 1, MSG_NOSIGNAL) == 1) {
					watch(poll, fds[k], EPOLLIN);
					asked++;
				}
			alive += await(poll, fds, index, asked, EPOLLIN);
		}
		printf("{\"alive\": %d}\n", alive);
		fflush(stdout);
	}
	return 0;
}

/* One connection at a time in each of GROUP slots, so that a slow one does not hold up the others. */
static int rate(const char *to, int port, int ports, int wanted, int seconds)
{
	struct { int fd; double since; int sent; } slot[GROUP];
	struct linger reset = { .l_onoff = 1 };
	struct epoll_event events[EVENTS];
	int poll = epoll_create1(0), busy = 0;
	long opened = 0, good = 0, failed = 0, late = 0;
	double start = now(), end = start + seconds;

	for (int i = 0; i < GROUP; i++)
		slot[i].fd = -1;
	while (now() < end || busy) {
		long due = now() < end ? (now() - start) * wanted : 0;
		int n;

		for (int i = 0; i < GROUP && opened < due; i++) {
			struct sockaddr_in peer = address(to, port + opened % ports);
			struct epoll_event e = { .events = EPOLLOUT, .data.u32 = i };

			if (slot[i].fd >= 0)
				continue;
			slot[i].fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
			slot[i].since = now();
			slot[i].sent = 0;
			connect(slot[i].fd, (struct sockaddr *)&peer, sizeof(peer));
			epoll_ctl(poll, EPOLL_CTL_ADD, slot[i].fd, &e);
			opened++;
			busy++;
		}
		n = epoll_wait(poll, events, EVENTS, 1);
		for (int k = 0; k < n; k++) {
			int i = events[k].data.u32, fd = slot[i].fd, error = 0;
			struct epoll_event e = { .events = EPOLLIN, .data.u32 = i };
			socklen_t size = sizeof(error);
			char byte;

			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
			if (!error && !slot[i].sent && send(fd, "x", 1, MSG_NOSIGNAL) == 1) {
				slot[i].sent = 1;
				epoll_ctl(poll, EPOLL_CTL_MOD, fd, &e);
				continue;
			}
			if (!error && recv(fd, &byte, 1, 0) == 1 && good < SAMPLES)
				latency[good++] = (now() - slot[i].since) * 1e6;
			else
				failed++;
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
			close(fd);
			slot[i].fd = -1;
			busy--;
		}
		if (now() > end + PATIENCE / 6) {
			failed += busy;
			break;
		}
		if (opened + GROUP < due)
			late = due - opened;
	}
	qsort(latency, good, sizeof(*latency), by_value);
	printf("{\"rate\": %.1f, \"good\": %ld, \"failed\": %ld, \"late\": %ld, \"p50\": %.1f, "
	       "\"p99\": %.1f}\n",
	       good / (double)seconds, good, failed, late, good ? latency[good / 2] : 0,
	       good ? latency[good * 99 / 100] : 0);
	return 0;
}

static uint16_t checksum(const struct sockaddr_in *from, const struct sockaddr_in *to,
			 const struct tcphdr *tcp)
{
	const uint16_t *words = (const void *)tcp;
	uint32_t sum = htons(IPPROTO_TCP) + htons(sizeof(*tcp));

	for (size_t i = 0; i < sizeof(*tcp) / 2; i++)
		sum += words[i];
	sum += (from->sin_addr.s_addr & 0xffff) + (from->sin_addr.s_addr >> 16);
	sum += (to->sin_addr.s_addr & 0xffff) + (to->sin_addr.s_addr >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

static int flood(const char *target, int port, int wanted, int seconds)
{
	struct sockaddr_in to = address(target, port), from;
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_TCP), probe = socket(AF_INET, SOCK_DGRAM, 0);
	socklen_t size = sizeof(from);
	double start = now(), end = start + seconds;
	long sent = 0, refused = 0;

	if (raw < 0 || connect(probe, (struct sockaddr *)&to, sizeof(to)) ||
	    getsockname(probe, (struct sockaddr *)&from, &size)) {
		perror("connload flood");
		return 1;
	}
	to.sin_port = 0;
	while (now() < end) {
		long due = (now() - start) * wanted;

		for (; sent + refused < due; ) {
			struct tcphdr tcp = { .source = random(), .dest = random(), .seq = random(),
					      .doff = 5, .syn = 1, .window = 65535 };

			if (!(random() & 7))
				tcp.dest = htons(port);
			tcp.check = checksum(&from, &to, &tcp);
			if (sendto(raw, &tcp, sizeof(tcp), 0, (struct sockaddr *)&to, sizeof(to)) < 0)
				refused++;
			else
				sent++;
		}
		until(now() + 0.001);
	}
	printf("{\"sent\": %ld, \"refused\": %ld}\n", sent, refused);
	return 0;
}

int main(int argc, char **argv)
{
	struct rlimit files;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (argc == 4 && !strcmp(argv[1], "serve"))
		return serve(atoi(argv[2]), atoi(argv[3]));
	if (argc == 6 && !strcmp(argv[1], "hold"))
		return hold(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	if (argc == 7 && !strcmp(argv[1], "rate"))
		return rate(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), atoi(argv[6]));
	if (argc == 6 && !strcmp(argv[1], "flood"))
		return flood(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	fprintf(stderr, "usage: connload serve|hold|rate|flood …\n");
	return 2;
}
