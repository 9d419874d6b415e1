/*
 * What the keeper has to know of /proc: who descends from it, and how a signal is taken.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_PID = 1 << 22 };

size_t signal_descendants(pid_t ancestor, int number);
int ends_by(pid_t pid, int number);
int is_runc(pid_t pid);
pid_t child_of(pid_t parent);

struct process { pid_t parent, group; };

static struct process look(pid_t pid)
{
	struct process found = {0, 0};
	char path[64], text[512], *end;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return found;
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	end = strrchr(text, ')');	/* a command name may hold anything */
	if (end)
		sscanf(end + 4, "%d %d", &found.parent, &found.group);
	return found;
}

/* Fills all, indexed by pid; parent 0 where there is none.  Returns the highest pid. */
static pid_t list_processes(struct process *all)
{
	struct dirent *entry;
	pid_t top = 0;
	DIR *proc = opendir("/proc");
	while (proc && (entry = readdir(proc))) {
		pid_t pid = atoi(entry->d_name);
		if (pid <= 0 || pid >= MAX_PID)
			continue;
		all[pid] = look(pid);
		top = pid > top ? pid : top;
	}
	if (proc)
		closedir(proc);
	return top;
}

/* Signals every process below ancestor, which leads a session that none of them is in;
   returns how many there were.  A process that forks and ends, again and again, is gone
   before its pid is reached: its process group is not. */
size_t signal_descendants(pid_t ancestor, int number)
{
	size_t bytes = MAX_PID * sizeof(struct process), found = 0, before;
	struct process *all = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (all == MAP_FAILED)
		return 0;
	pid_t top = list_processes(all);
	do {	/* a descendant is marked by making ancestor its parent */
		before = found;
		found = 0;
		for (pid_t pid = 1; pid <= top; pid++) {
			pid_t parent = all[pid].parent;
			if (parent > 0 && parent < MAX_PID && all[parent].parent == ancestor)
				all[pid].parent = ancestor;
			found += all[pid].parent == ancestor;
		}
	} while (found != before);
	for (pid_t pid = 1; pid <= top; pid++)
		if (all[pid].parent == ancestor) {
			kill(pid, number);
			if (all[pid].group > 0 && all[pid].group != ancestor)
				kill(-all[pid].group, number);
		}
	munmap(all, bytes);
	return found;
}

/* Whether a field of /proc/PID/status, a mask, has the bit of a signal. */
static int masked(const char *status, const char *field, int number)
{
	const char *at = strstr(status, field);
	return at && strtoull(at + strlen(field), NULL, 16) >> (number - 1) & 1;
}

/* Process 1 of a pid name space is spared by signals that it does not handle.  To who
   sends one, a program that ends by it elsewhere should end by it here. */
int ends_by(pid_t pid, int number)
{
	static const int harmless[] = {SIGCHLD, SIGCONT, SIGURG, SIGWINCH, SIGSTOP, SIGTSTP,
				       SIGTTIN, SIGTTOU};
	char path[64], status[4096];
	for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
		if (number == harmless[i])
			return 0;
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, status, sizeof status - 1);
	close(fd);
	status[n > 0 ? n : 0] = '\0';
	return !masked(status, "SigCgt:", number) && !masked(status, "SigIgn:", number);
}

/* Whether a process is runc's still, about to become the program: it would take signals
   that are meant for that. */
int is_runc(pid_t pid)
{
	char path[64], name[16] = "";
	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, name, sizeof name - 1);
	close(fd);
	return n > 0 && !strncmp(name, "runc:[", 6);
}

/* A child of a process, 0 if there is none. */
pid_t child_of(pid_t parent)
{
	struct dirent *entry;
	pid_t found = 0;
	DIR *proc = opendir("/proc");
	while (proc && !found && (entry = readdir(proc))) {
		pid_t pid = atoi(entry->d_name);
		if (pid > 0 && look(pid).parent == parent)
			found = pid;
	}
	if (proc)
		closedir(proc);
	return found;
}
