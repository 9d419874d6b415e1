/* A small file system with libfuse's low-level interface and one thread, as a peer.
 *
 *     hello_ll MOUNTPOINT NAMES ATTRIBUTES
 *
 * /version is a short file; /proc holds 10,000 directories object00000…, each with a file
 * `status`.  Content is made at open and read with direct I/O, and the kernel may keep
 * names for NAMES and attributes for ATTRIBUTES seconds, all as in the file system that
 * it is compared with, so that both answer the same messages.
 */
#define FUSE_USE_VERSION 35
#define _GNU_SOURCE
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	ROOT = FUSE_ROOT_ID, VERSION = 2, PROC = 3,
	COUNT = 10000,
	FIRST = 16,             /* the directories; each one's status is COUNT further on */
	ROOM = 512,
};

static double keep_names, keep_attributes;

static int is_object(fuse_ino_t ino) { return ino >= FIRST && ino < FIRST + COUNT; }

static int exists(fuse_ino_t ino)
{
	return (ino >= ROOT && ino <= PROC) || (ino >= FIRST && ino < FIRST + 2 * COUNT);
}

static void describe(fuse_ino_t ino, struct stat *st)
{
	int dir = ino == ROOT || ino == PROC || is_object(ino);
	memset(st, 0, sizeof *st);
	st->st_ino = ino;
	st->st_mode = dir ? S_IFDIR | 0555 : S_IFREG | 0444;
	st->st_nlink = dir ? 2 : 1;
}

static void entry_of(fuse_ino_t ino, struct fuse_entry_param *e)
{
	memset(e, 0, sizeof *e);
	e->ino = ino;
	e->entry_timeout = keep_names;
	e->attr_timeout = keep_attributes;
	describe(ino, &e->attr);
}

static fuse_ino_t child(fuse_ino_t parent, const char *name)
{
	char *end;
	long number;
	if (parent == ROOT)
		return !strcmp(name, "version") ? VERSION : !strcmp(name, "proc") ? PROC : 0;
	if (is_object(parent))
		return !strcmp(name, "status") ? parent + COUNT : 0;
	if (parent != PROC || strncmp(name, "object", 6) != 0)
		return 0;
	number = strtol(name + 6, &end, 10);
	return *end || number < 0 || number >= COUNT ? 0 : (fuse_ino_t)(FIRST + number);
}

static void do_init(void *data, struct fuse_conn_info *conn)
{
	(void)data;
	conn->want |= FUSE_CAP_READDIRPLUS;
	conn->want &= ~(unsigned)FUSE_CAP_READDIRPLUS_AUTO;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	fuse_ino_t ino = child(parent, name);
	if (!ino) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	entry_of(ino, &e);
	fuse_reply_entry(req, &e);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	(void)fi;
	if (!exists(ino)) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	describe(ino, &st);
	fuse_reply_attr(req, &st, keep_attributes);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	char *text = malloc(ROOM);
	if (!text) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	snprintf(text, ROOM, "id=%lu state=running node=here user=root pid=1 cpu=0.00 mem=1048576\n",
		 (unsigned long)ino);
	fi->fh = (uint64_t)(uintptr_t)text;
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	const char *text = (const char *)(uintptr_t)fi->fh;
	size_t length = strlen(text), at = (size_t)off;
	(void)ino;
	if (at > length)
		at = length;
	fuse_reply_buf(req, text + at, length - at < size ? length - at : size);
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	free((void *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}

static fuse_ino_t nth(fuse_ino_t dir, off_t at, char *name, size_t room)
{
	if (is_object(dir)) {
		snprintf(name, room, "status");
		return at == 0 ? dir + COUNT : 0;
	}
	if (dir == ROOT) {
		snprintf(name, room, "%s", at == 0 ? "version" : "proc");
		return at == 0 ? VERSION : at == 1 ? PROC : 0;
	}
	snprintf(name, room, "object%05d", (int)at);
	return dir == PROC && at < COUNT ? (fuse_ino_t)(FIRST + at) : 0;
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t dir, size_t size, off_t off,
			   struct fuse_file_info *fi)
{
	struct fuse_entry_param e;
	fuse_ino_t ino;
	size_t used = 0;
	char name[32], *buffer = malloc(size);
	(void)fi;
	if (!buffer) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	while ((ino = nth(dir, off, name, sizeof name))) {
		size_t need;
		entry_of(ino, &e);
		need = fuse_add_direntry_plus(req, buffer + used, size - used, name, &e, ++off);
		if (need > size - used)
			break;
		used += need;
	}
	fuse_reply_buf(req, buffer, used);
	free(buffer);
}

static const struct fuse_lowlevel_ops operations = {
	.init = do_init, .lookup = do_lookup, .getattr = do_getattr, .open = do_open,
	.read = do_read, .release = do_release, .readdirplus = do_readdirplus,
};

int main(int argc, char **argv)
{
	static char options[] = "-ofsname=hello_ll,default_permissions";
	char *args[] = { argv[0], options, NULL };
	struct fuse_args fuse_args = FUSE_ARGS_INIT(2, args);
	struct fuse_session *session;
	int failed = 1;
	if (argc != 4) {
		fprintf(stderr, "usage: hello_ll MOUNTPOINT NAMES ATTRIBUTES\n");
		return 2;
	}
	keep_names = atof(argv[2]);
	keep_attributes = atof(argv[3]);
	session = fuse_session_new(&fuse_args, &operations, sizeof operations, NULL);
	if (!session)
		return 1;
	if (fuse_set_signal_handlers(session) == 0 && fuse_session_mount(session, argv[1]) == 0) {
		failed = fuse_session_loop(session) != 0;
		fuse_session_unmount(session);
	}
	fuse_remove_signal_handlers(session);
	fuse_session_destroy(session);
	return failed;
}
