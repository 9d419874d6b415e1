/* A connection to a 9P server: dialling it, queueing messages, and the blocking exchange
 * of one for its reply with which a connection is set up. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "frames.h"

enum { Rlerror = 7, Rerror = 107 };
enum { BULK = 1 << 18 };  /* room for replies beyond one whole frame */

struct slot {             /* one operation under way; tags are slot * 4 + step */
	uint32_t fid;
	int step, left;       /* the step under way; replies still due in a burst */
	uint64_t offset, began;
};

struct conn {
	int fd;
	uint8_t *in, *out;
	size_t have, room, queued;
	uint64_t offset;      /* where the next sequential read begins */
	struct slot *slots;
};

static uint8_t scratch[BULK];  /* the reply to the last call */

static void die(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("load: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

/* Building a message: begin, put…, finish. 9P is little-endian, and so is every machine
 * this runs on; main checks. */

static uint8_t *begin(struct conn *c, int type, uint16_t tag)
{
	uint8_t *p = c->out + c->queued;
	p[4] = (uint8_t)type;
	memcpy(p + 5, &tag, 2);
	return p + 7;
}

static void finish(struct conn *c, uint8_t *end)
{
	uint32_t size = (uint32_t)(end - (c->out + c->queued));
	memcpy(c->out + c->queued, &size, 4);
	c->queued += size;
}

static void send_all(struct conn *c)
{
	size_t done = 0;
	while (done < c->queued) {
		ssize_t n = send(c->fd, c->out + done, c->queued - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			die("send: %s", strerror(errno));
		done += (size_t)n;
	}
	c->queued = 0;
}

static void check_type(const uint8_t *frame, int asked)
{
	int type = frame[4];
	if (type == asked + 1)
		return;
	if (type == Rlerror)
		die("%s in answer to a message of type %d", strerror((int)get4(frame + 7)), asked);
	if (type == Rerror)
		die("%.*s in answer to a message of type %d", get2(frame + 7), frame + 9, asked);
	die("a reply of type %d to a message of type %d", type, asked);
}

/* Send what is queued and wait for its one reply: for the set-up only. */
static void call(struct conn *c)
{
	int asked = c->out[4];
	size_t have = 0;
	send_all(c);
	while (have < 4 || have < get4(scratch)) {
		ssize_t n = recv(c->fd, scratch + have, sizeof scratch - have, 0);
		if (n <= 0)
			die("the server hung up: %s", n ? strerror(errno) : "end of file");
		have += (size_t)n;
	}
	check_type(scratch, asked);
}

static int dial(const char *address)
{
	const char *colon = strrchr(address, ':');
	int fd, one = 1;
	if (address[0] == '/') {
		struct sockaddr_un sun = { .sun_family = AF_UNIX };
		if (strlen(address) >= sizeof sun.sun_path)
			die("%s: too long for a socket", address);
		strcpy(sun.sun_path, address);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0 || connect(fd, (struct sockaddr *)&sun, sizeof sun) < 0)
			die("%s: %s", address, strerror(errno));
		return fd;
	}
	struct sockaddr_in sin = { .sin_family = AF_INET };
	if (!colon)
		die("%s is neither a path nor HOST:PORT", address);
	sin.sin_port = htons((uint16_t)atoi(colon + 1));
	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sin, sizeof sin) < 0)
		die("%s: %s", address, strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}
