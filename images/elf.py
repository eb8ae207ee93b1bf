"""What an ELF file says of itself, as far as an image FROM scratch must know: is it a program for this machine that needs no other file?"""

import struct

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NEEDED = 1
SHT_SYMTAB = 2
EM_X86_64 = 62
ET_EXEC, ET_DYN = 2, 3


class ElfError(Exception):
    """Not a program that can stand alone."""


def check_static(data, name):
    """Raises ElfError with the reason unless `data` is a static, stripped x86-64 program."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ElfError(f"{name} is no 64-bit little-endian ELF file")
    try:
        kind, machine = struct.unpack_from("<HH", data, 16)
        program_at, section_at = struct.unpack_from("<QQ", data, 32)
        program_size, program_count, section_size, section_count = struct.unpack_from("<HHHH", data, 54)
        if machine != EM_X86_64 or kind not in (ET_EXEC, ET_DYN):
            raise ElfError(f"{name} is no program for x86-64")
        for index in range(program_count):
            kind, _, offset, _, _, size, _, _ = struct.unpack_from("<IIQQQQQQ", data, program_at + index * program_size)
            if kind == PT_INTERP:
                loader = data[offset : offset + size].rstrip(b"\0").decode(errors="replace")
                raise ElfError(f"{name} is not static: it asks for the loader {loader}")
            if kind == PT_DYNAMIC:
                for at in range(offset, offset + size, 16):
                    if struct.unpack_from("<q", data, at)[0] == DT_NEEDED:
                        raise ElfError(f"{name} is not static: it needs a shared library")
        for index in range(section_count):
            if struct.unpack_from("<I", data, section_at + index * section_size + 4)[0] == SHT_SYMTAB:
                raise ElfError(f"{name} is not stripped")
    except struct.error as error:
        raise ElfError(f"{name} is cut off: {error}") from None
