/*
 * How the keeper carries what the program writes from two pipes into two files.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

enum { DIRECTORY = 0, BLOCK = 4096, LEAST = 8 * BLOCK };

void begin_output(int out, int err);
int carry_output(off_t limit);
int output_pipe(int number);
void reopen_output(void);

struct stream {
	const char *name;
	int pipe;	/* -1 once every writer has closed it */
	int file;	/* -1 while it cannot be opened */
	off_t size;	/* where the next byte goes */
	off_t first;	/* the first byte that is still kept */
	int stuck;	/* the disk refused the last bytes: they wait in the pipe */
};

static struct stream streams[2] = {{"stdout", -1, -1, 0, 0, 0}, {"stderr", -1, -1, 0, 0, 0}};

static int open_stream(struct stream *s)
{
	s->file = openat(DIRECTORY, s->name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->file < 0)
		return -1;
	s->size = lseek(s->file, 0, SEEK_END);
	s->first = lseek(s->file, 0, SEEK_DATA);
	if (s->first < 0)
		s->first = s->size;
	return 0;
}

/* Readers find the first kept byte with SEEK_DATA, so a drop needs no record. */
static void drop_oldest(struct stream *s, off_t limit)
{
	if (s->size - s->first <= limit)
		return;
	off_t step = limit / 8 / BLOCK * BLOCK;
	off_t upto = (s->size - limit + step - 1) / step * step;
	if (!fallocate(s->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, upto))
		s->first = upto;
}

/* Moves what the pipe holds into the file.  What the disk refuses stays in the pipe. */
static void pump(struct stream *s, off_t limit)
{
	s->stuck = s->file < 0 && open_stream(s);
	for (int turn = 0; !s->stuck && s->pipe >= 0 && turn < 16; turn++) {
		loff_t at = s->size;
		ssize_t n = splice(s->pipe, NULL, s->file, &at, 1 << 20, SPLICE_F_NONBLOCK);
		if (n > 0) {
			s->size += n;
			drop_oldest(s, limit);
		} else if (n == 0) {
			close(s->pipe);
			s->pipe = -1;
		} else if (errno != EINTR) {
			s->stuck = errno != EAGAIN;
			return;
		}
	}
}

/* From now on the program writes into these pipes. */
void begin_output(int out, int err)
{
	streams[0].pipe = out;
	streams[1].pipe = err;
}

/* Carries what is there, keeping at most limit bytes of each; whether the disk refused. */
int carry_output(off_t limit)
{
	for (int i = 0; i < 2; i++)
		pump(&streams[i], limit < LEAST ? LEAST : limit);
	return streams[0].stuck || streams[1].stuck;
}

/* The pipe to wait for, -1 if it is closed or there is no room for what it holds. */
int output_pipe(int number)
{
	return streams[number].stuck ? -1 : streams[number].pipe;
}

/* The next output goes to the ends of the files that are there now. */
void reopen_output(void)
{
	for (int i = 0; i < 2; i++) {
		if (streams[i].file >= 0)
			close(streams[i].file);
		streams[i].file = -1;
	}
}
