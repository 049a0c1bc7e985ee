"""The system calls that sandboxed code is refused, as a program for the kernel's filter (seccomp).

A refused call fails with EPERM; all others go on. What a namespace or Landlock holds already is not
repeated here.
"""

import platform
import struct
from collections.abc import Sequence
from typing import Final, Literal

Sockets = Literal["own", "tcp", "none"]

_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_AND: Final = 0x54
_RETURN: Final = 0x06

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_EPERM: Final = 1
_ENOSYS: Final = 38

_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_ARGUMENTS_AT: Final = 16
_X32_BIT: Final = 0x40000000

_NAMESPACE_FLAGS: Final = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; clone takes no CLONE_NEWTIME."""
_TERMINAL_INPUT: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, which type into a terminal that others read."""
_AF_UNIX: Final = 1
_AF_INET: Final = 2
_AF_INET6: Final = 10
_AF_NETLINK: Final = 16

_TCP_PROTOCOLS: Final = (0, 6)
_STREAM: Final = 1
_SEQPACKET: Final = 5
_TYPE_BITS: Final = 0xF

_MACHINES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What the kernel calls them."""
_COLUMNS: Final = tuple(_MACHINES)
_CLONE: Final = (56, 220)
_IOCTL: Final = (16, 29)
_SOCKET: Final = (41, 198)
_SOCKETPAIR: Final = (53, 199)
_LISTEN: Final = (50, 201)
_SENDS: Final = {"sendto": ((44, 206), 3), "sendmsg": ((46, 211), 2), "sendmmsg": ((307, 269), 3)}
"""With the argument that has the flags."""
_FAST_OPEN: Final = 0x20000000
_REFUSED: Final = {
    # Looking into or steering other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # Keys, which belong to a user and not to a namespace.
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # Other views of the system.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    # Large parts of the kernel that such code has no use for.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "personality": (135, 92),
    # The machine itself.
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "fanotify_init": (300, 262),
    # Memory of no process, which no limit counts; some of it is shared with the host.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "io_setup": (206, 0),
}
"""Their numbers, by machine in the order of _COLUMNS."""
_OF_OTHERS: Final = {
    "sched_setparam": ((142, 118), ((0, 0),)),
    "sched_setscheduler": ((144, 119), ((0, 0),)),
    "sched_setaffinity": ((203, 122), ((0, 0),)),
    "sched_setattr": ((314, 274), ((0, 0),)),
    "prlimit64": ((302, 261), ((0, 0),)),
    "setpriority": ((141, 140), ((0, 0), (1, 0))),
    "ioprio_set": ((251, 30), ((0, 1), (1, 0))),
}
"""Limits and turns of a process, with the arguments that mean the caller itself. Landlock has no
rule for these, and another process of the user may be another run, or what started this one."""
_MODES: Final = {
    "chmod": ((90, None), 1),
    "fchmod": ((91, 52), 1),
    "fchmodat": ((268, 53), 2),
    "fchmodat2": ((452, 452), 2),
    "creat": ((85, None), 1),
    "mknod": ((133, None), 1),
    "mknodat": ((259, 33), 2),
}
"""What gives a file its mode, and which argument that is; aarch64 lacks some."""
_OPENS: Final = {"open": ((2, None), 1), "openat": ((257, 56), 2)}
"""The same where a file may be made, with the argument in front of the mode: flags."""
_MAKING: Final = 0x40 | 0x400000
"""O_CREAT and O_TMPFILE; without either there is no mode to look at."""
_SETUID: Final = 0o4000
_IN_MEMORY: Final = {"clone3": 435, "openat2": 437}
"""Calls with flags where no filter sees them; the C library and others then take older ones."""


def program_in_namespaces() -> bytes | None:
    """The filter as the kernel takes it; None on a machine whose calls are not known here."""
    return _program("own")


def program_without_namespaces(sockets: Sockets) -> bytes | None:
    """The same where the code shares the host's network and processes.

    `sockets` says which may be made: "tcp" over IPv4 and IPv6, to connect only, or "none". Pairs
    of sockets may always, but for datagrams.
    """
    return _program(sockets)


def _program(sockets: Sockets) -> bytes | None:
    machine = platform.machine()
    if machine not in _MACHINES:
        return None
    column = _COLUMNS.index(machine)
    program = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_JUMP_EQUAL, _MACHINES[machine], if_true=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
        # The calls of x32 are the same under other numbers.
        _step(_JUMP_AT_LEAST, _X32_BIT, if_false=1),
        _step(_RETURN, _KILL),
    ]
    for numbers in _REFUSED.values():
        program += _refuse(numbers[column])
    for number in _IN_MEMORY.values():
        program += [_step(_JUMP_EQUAL, number, if_false=1), _step(_RETURN, _ERRNO | _ENOSYS)]
    program += _on(_CLONE[column], [_load_argument(0), *_refuse_bits(_NAMESPACE_FLAGS)])
    typing = [step for request in _TERMINAL_INPUT for step in _refuse(request)]
    program += _on(_IOCTL[column], [_load_argument(1), *typing])
    program += _without_setuid(column)
    if sockets == "own":
        families = (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)
        # Others, that of virtual machines for one, know no namespaces.
        program += _on(_SOCKET[column], [_load_argument(0), *_refuse_others(families)])
    else:
        for numbers, caller in _OF_OTHERS.values():
            program += _on(numbers[column], _only(caller))
        # One of a pair of datagrams sends to any Unix socket of the host that it names.
        pairs = [_step(_AND, _TYPE_BITS), *_refuse_others((_STREAM, _SEQPACKET))]
        program += _on(_SOCKETPAIR[column], [_load_argument(1), *pairs])
        program += _refuse(_SOCKET[column]) if sockets == "none" else _only_connections(column)
    program.append(_step(_RETURN, _ALLOW))
    return b"".join(program)


def _without_setuid(column: int) -> list[bytes]:
    """Such a file, left in a folder of the host, would run as this user for whoever finds it."""
    program = []
    for numbers, position in _MODES.values():
        if (number := numbers[column]) is not None:
            program += _on(number, [_load_argument(position), *_refuse_bits(_SETUID)])
    for numbers, position in _OPENS.values():
        if (number := numbers[column]) is not None:
            looks = [_load_argument(position + 1), *_refuse_bits(_SETUID)]
            is_made = _step(_JUMP_ANY_BIT, _MAKING, if_false=len(looks))
            program += _on(number, [_load_argument(position), is_made, *looks])
    return program


def _only(arguments: Sequence[tuple[int, int]]) -> list[bytes]:
    return [
        step
        for position, value in arguments
        for step in (_load_argument(position), *_refuse_others((value,)))
    ]


def _only_connections(column: int) -> list[bytes]:
    """TCP, and of that what Landlock's rules for ports see: no connection by what is sent first,
    and no listening at a port that the kernel chooses."""
    program = [*_on(_SOCKET[column], _only_tcp()), *_refuse(_LISTEN[column])]
    for numbers, position in _SENDS.values():
        program += _on(numbers[column], [_load_argument(position), *_refuse_bits(_FAST_OPEN)])
    return program


def _only_tcp() -> list[bytes]:
    return [
        _load_argument(0),
        *_refuse_others((_AF_INET, _AF_INET6)),
        _load_argument(1),
        _step(_AND, _TYPE_BITS),
        *_refuse_others((_STREAM,)),
        _load_argument(2),
        # Landlock's rules know TCP itself, and none of what else makes streams.
        *_refuse_others(_TCP_PROTOCOLS),
    ]


def _refuse(value: int) -> list[bytes]:
    return [_step(_JUMP_EQUAL, value, if_false=1), _step(_RETURN, _ERRNO | _EPERM)]


def _refuse_bits(bits: int) -> list[bytes]:
    return [_step(_JUMP_ANY_BIT, bits, if_false=1), _step(_RETURN, _ERRNO | _EPERM)]


def _refuse_others(values: tuple[int, ...]) -> list[bytes]:
    left = range(len(values), 0, -1)
    steps = [_step(_JUMP_EQUAL, v, if_true=n) for v, n in zip(values, left, strict=True)]
    return [*steps, _step(_RETURN, _ERRNO | _EPERM)]


def _on(number: int, steps: Sequence[bytes]) -> list[bytes]:
    """Do the steps on one call, and have its number loaded again for those behind."""
    body = [*steps, _step(_LOAD, _NUMBER_AT)]
    return [_step(_JUMP_EQUAL, number, if_false=len(body)), *body]


def _load_argument(position: int) -> bytes:
    """The lower half of it, which is all that the kernel reads of these."""
    return _step(_LOAD, _ARGUMENTS_AT + 8 * position)


def _step(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
