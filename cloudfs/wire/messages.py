"""The messages of 9P2000, 9P2000.u and 9P2000.L: the table from which the codec is made.

One row a message: its number, its name, the dialects that have it and its fields
after `size[4] type[1] tag[2]`, in the notation of intro(5):

    name[1] [2] [4] [8]   a little-endian number of so many bytes
    name[4]?              one that older peers leave out at the end; 0 then
    name[s]               a string: n[2], n bytes of UTF-8
    name[13]              a qid: type[1] version[4] path[8]
    name[*s] name[*13]    at most 16 of them after their number[2]
    name[d]               data: n[4], n bytes
    name[n]               the bytes of a stat: n[2], n bytes (`STAT` says what is in them)

Dialects are written 9 (9P2000), u (9P2000.u) and L (9P2000.L).
"""

from __future__ import annotations

from typing import NamedTuple

VERSIONS = {"9": "9P2000", "u": "9P2000.u", "L": "9P2000.L"}
# 9P2000.u as nodes speak it with each other: names of users instead of numbers, requests
# that do not block are answered in the order in which they came, and the ename of an
# Rerror is why it failed and, after a newline, what to do about it.  And they have one more
# request: Tlook is Twalk, Topen for reading and Tread of the beginning in one, all or none,
# and before them Tclunk of newfid where there is one.
NODES = "9P2000.u.node.2"

NOTAG = 0xFFFF
NOFID = 0xFFFFFFFF
MAX_WALK = 16  # elements of one Twalk

# Bytes around the data of an Rread or Twrite, as peers reckon them (intro(5)).
IOHDRSZ = 24
READ_HEAD = 11  # bytes of an Rread or Rreaddir before its data
LOOK_HEAD = READ_HEAD + 13


class Row(NamedTuple):
    """One message as one line of the table."""

    number: int
    name: str
    dialects: str
    fields: str


MESSAGES = (
    Row(7, "Rlerror", "L", "ecode[4]"),
    Row(8, "Tstatfs", "L", "fid[4]"),
    Row(
        9,
        "Rstatfs",
        "L",
        "type[4] bsize[4] blocks[8] bfree[8] bavail[8] files[8] ffree[8] fsid[8] namelen[4]",
    ),
    Row(12, "Tlopen", "L", "fid[4] flags[4]"),
    Row(13, "Rlopen", "L", "qid[13] iounit[4]"),
    Row(14, "Tlcreate", "L", "fid[4] name[s] flags[4] mode[4] gid[4]"),
    Row(15, "Rlcreate", "L", "qid[13] iounit[4]"),
    Row(16, "Tsymlink", "L", "fid[4] name[s] symtgt[s] gid[4]"),
    Row(17, "Rsymlink", "L", "qid[13]"),
    Row(18, "Tmknod", "L", "dfid[4] name[s] mode[4] major[4] minor[4] gid[4]"),
    Row(19, "Rmknod", "L", "qid[13]"),
    Row(20, "Trename", "L", "fid[4] dfid[4] name[s]"),
    Row(21, "Rrename", "L", ""),
    Row(22, "Treadlink", "L", "fid[4]"),
    Row(23, "Rreadlink", "L", "target[s]"),
    Row(24, "Tgetattr", "L", "fid[4] request_mask[8]"),
    Row(
        25,
        "Rgetattr",
        "L",
        "valid[8] qid[13] mode[4] uid[4] gid[4] nlink[8] rdev[8] size[8] blksize[8] blocks[8]"
        " atime_sec[8] atime_nsec[8] mtime_sec[8] mtime_nsec[8] ctime_sec[8] ctime_nsec[8]"
        " btime_sec[8] btime_nsec[8] gen[8] data_version[8]",
    ),
    Row(
        26,
        "Tsetattr",
        "L",
        "fid[4] valid[4] mode[4] uid[4] gid[4] size[8]"
        " atime_sec[8] atime_nsec[8] mtime_sec[8] mtime_nsec[8]",
    ),
    Row(27, "Rsetattr", "L", ""),
    Row(30, "Txattrwalk", "L", "fid[4] newfid[4] name[s]"),
    Row(31, "Rxattrwalk", "L", "size[8]"),
    Row(32, "Txattrcreate", "L", "fid[4] name[s] attr_size[8] flags[4]"),
    Row(33, "Rxattrcreate", "L", ""),
    Row(40, "Treaddir", "L", "fid[4] offset[8] count[4]"),
    Row(41, "Rreaddir", "L", "data[d]"),
    Row(50, "Tfsync", "L", "fid[4] datasync[4]?"),
    Row(51, "Rfsync", "L", ""),
    Row(52, "Tlock", "L", "fid[4] type[1] flags[4] start[8] length[8] proc_id[4] client_id[s]"),
    Row(53, "Rlock", "L", "status[1]"),
    Row(54, "Tgetlock", "L", "fid[4] type[1] start[8] length[8] proc_id[4] client_id[s]"),
    Row(55, "Rgetlock", "L", "type[1] start[8] length[8] proc_id[4] client_id[s]"),
    Row(70, "Tlink", "L", "dfid[4] fid[4] name[s]"),
    Row(71, "Rlink", "L", ""),
    Row(72, "Tmkdir", "L", "dfid[4] name[s] mode[4] gid[4]"),
    Row(73, "Rmkdir", "L", "qid[13]"),
    Row(74, "Trenameat", "L", "olddirfid[4] oldname[s] newdirfid[4] newname[s]"),
    Row(75, "Rrenameat", "L", ""),
    Row(76, "Tunlinkat", "L", "dirfd[4] name[s] flags[4]"),
    Row(77, "Runlinkat", "L", ""),
    Row(100, "Tversion", "9uL", "msize[4] version[s]"),
    Row(101, "Rversion", "9uL", "msize[4] version[s]"),
    Row(102, "Tauth", "9", "afid[4] uname[s] aname[s]"),
    Row(102, "Tauth", "uL", "afid[4] uname[s] aname[s] n_uname[4]"),
    Row(103, "Rauth", "9uL", "aqid[13]"),
    Row(104, "Tattach", "9", "fid[4] afid[4] uname[s] aname[s]"),
    Row(104, "Tattach", "uL", "fid[4] afid[4] uname[s] aname[s] n_uname[4]"),
    Row(105, "Rattach", "9uL", "qid[13]"),
    Row(107, "Rerror", "9", "ename[s]"),
    Row(107, "Rerror", "u", "ename[s] errno[4]"),
    Row(108, "Tflush", "9uL", "oldtag[2]"),
    Row(109, "Rflush", "9uL", ""),
    Row(110, "Twalk", "9uL", "fid[4] newfid[4] wname[*s]"),
    Row(111, "Rwalk", "9uL", "wqid[*13]"),
    Row(112, "Topen", "9u", "fid[4] mode[1]"),
    Row(113, "Ropen", "9u", "qid[13] iounit[4]"),
    Row(114, "Tcreate", "9", "fid[4] name[s] perm[4] mode[1]"),
    Row(114, "Tcreate", "u", "fid[4] name[s] perm[4] mode[1] extension[s]"),
    Row(115, "Rcreate", "9u", "qid[13] iounit[4]"),
    Row(116, "Tread", "9uL", "fid[4] offset[8] count[4]"),
    Row(117, "Rread", "9uL", "data[d]"),
    Row(118, "Twrite", "9uL", "fid[4] offset[8] data[d]"),
    Row(119, "Rwrite", "9uL", "count[4]"),
    Row(120, "Tclunk", "9uL", "fid[4]"),
    Row(121, "Rclunk", "9uL", ""),
    Row(122, "Tremove", "9uL", "fid[4]"),
    Row(123, "Rremove", "9uL", ""),
    Row(124, "Tstat", "9u", "fid[4]"),
    Row(125, "Rstat", "9u", "stat[n]"),
    Row(126, "Twstat", "9u", "fid[4] stat[n]"),
    Row(127, "Rwstat", "9u", ""),
    Row(140, "Tlook", "u", "fid[4] newfid[4] most[4] wname[*s]"),
    Row(141, "Rlook", "u", "qid[13] data[d]"),
)

# A stat (stat(5)), which begins with its own size[2].
_STAT = "type[2] dev[4] qid[13] mode[4] atime[4] mtime[4] length[8] name[s] uid[s] gid[s] muid[s]"
STAT = {"9": _STAT, "u": _STAT + " extension[s] n_uid[4] n_gid[4] n_muid[4]"}

# An entry of an Rreaddir.
DIRENT = "qid[13] offset[8] type[1] name[s]"
