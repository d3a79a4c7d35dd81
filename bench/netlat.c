/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Request/response and connect+request load for the end-to-end benchmark.
 *
 *   netlat serve PORT              answer every byte sequence with itself, one client at a time
 *   netlat rr  ADDRESS PORT MS     32-byte ping-pong on one connection
 *   netlat crr ADDRESS PORT MS     connect, one byte there and back, close
 *
 * Clients run for MS milliseconds and print one JSON line: rate per second, p50 and p99 in us.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES 2000000

static float latency[SAMPLES];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int serve(int port)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int one = 1, listener = socket(AF_INET6, SOCK_STREAM, 0);
	char buffer[64];

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&any, sizeof(any)) || listen(listener, 1024)) {
		perror("netlat serve");
		return 1;
	}
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		ssize_t n;

		if (fd < 0)
			continue;
		no_delay(fd);
		while ((n = recv(fd, buffer, sizeof(buffer), 0)) > 0)
			if (send(fd, buffer, n, MSG_NOSIGNAL) < 0)
				break;
		close(fd);
	}
}

static int dial(const struct sockaddr_storage *to, socklen_t size)
{
	struct timeval limit = { .tv_sec = 2 };
	int fd = socket(to->ss_family, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	no_delay(fd);
	if (connect(fd, (const struct sockaddr *)to, size)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int once(int fd, size_t size)
{
	char buffer[64] = { 0 };

	return send(fd, buffer, size, MSG_NOSIGNAL) == (ssize_t)size &&
	       recv(fd, buffer, size, MSG_WAITALL) == (ssize_t)size;
}

int main(int argc, char **argv)
{
	struct sockaddr_storage to = { 0 };
	struct sockaddr_in6 *v6 = (void *)&to;
	struct sockaddr_in *v4 = (void *)&to;
	struct linger reset = { .l_onoff = 1 };
	socklen_t size;
	double start, end;
	long n = 0, errors = 0;
	int fd = -1, connecting;

	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(atoi(argv[2]));
	if (argc != 5) {
		fprintf(stderr, "usage: netlat serve PORT | rr|crr ADDRESS PORT MS\n");
		return 2;
	}
	connecting = !strcmp(argv[1], "crr");
	if (inet_pton(AF_INET6, argv[2], &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(atoi(argv[3]));
		size = sizeof(*v6);
	} else {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(atoi(argv[3]));
		inet_pton(AF_INET, argv[2], &v4->sin_addr);
		size = sizeof(*v4);
	}
	if (!connecting && (fd = dial(&to, size)) < 0) {
		perror("netlat: connect");
		return 1;
	}
	start = now();
	end = start + atoi(argv[4]) * 1e-3;
	for (double at = start; at < end && n < SAMPLES && errors < 100; at = now()) {
		int good;

		if (connecting) {
			fd = dial(&to, size);
			good = fd >= 0 && once(fd, 1);
			if (fd >= 0) {
				setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
				close(fd);
			}
		} else {
			good = once(fd, 32);
		}
		if (good)
			latency[n++] = (now() - at) * 1e6;
		else
			errors++;
	}
	end = now();
	qsort(latency, n, sizeof(*latency), by_value);
	printf("{\"rate\": %.1f, \"p50\": %.1f, \"p99\": %.1f, \"errors\": %ld}\n",
	       n / (end - start), n ? latency[n / 2] : 0, n ? latency[n * 99 / 100] : 0, errors);
	return errors != 0;
}
