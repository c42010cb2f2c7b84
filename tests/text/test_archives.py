"""Every reader gives back every byte, and refuses what is broken or means harm."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.text.archives import unpack


def zipped(data: bytes, method: int = zipfile.ZIP_DEFLATED, name: str = "text") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def tarred(data: bytes, name: str = "text", kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.type = len(data) if kind == tarfile.REGTYPE else 0, kind
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


PACK = {
    "t.txt": bytes, "t": bytes, "t.gz": gzip.compress, "t.xz": lzma.compress, "t.bz2": bz2.compress,
    "t.zst": zstd.compress, "T.GZ": gzip.compress, "t.zip": zipped, "t.tar": tarred,
    "t.tar.gz": lambda data: gzip.compress(tarred(data)), "t.tgz": lambda data: gzip.compress(tarred(data)),
    "t.tar.xz": lambda data: lzma.compress(tarred(data)), "t.tbz2": lambda data: bz2.compress(tarred(data)),
    "t.tar.zst": lambda data: zstd.compress(tarred(data)),
}  # fmt: skip
PACKED = [name for name in PACK if PACK[name] is not bytes]


def read(data: bytes, name: str) -> bytes:
    return b"".join(b"".join(chunks) for _, chunks in unpack(io.BytesIO(data), name, len(data)))


@pytest.mark.parametrize("name", PACK)
@given(data=st.binary())
def test_unpacking_returns_every_byte(name, data):
    assert read(PACK[name](data), name) == data


@pytest.mark.parametrize("name", PACK)
def test_unpacking_returns_large_files(name):
    data = bytes(range(256)) * 3000
    assert read(PACK[name](data), name) == data


@pytest.mark.parametrize("name", ["t.gz", "t.xz", "t.bz2", "t.zst"])
def test_concatenated_streams_are_one_text(name):
    assert read(PACK[name](b"one ") + PACK[name](b"two"), name) == b"one two"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_compression_methods(method):
    assert read(zipped(b"ladder" * 100, method), "t.zip") == b"ladder" * 100


@pytest.mark.parametrize("name", PACKED)
@given(data=st.data())
def test_damaged_archives_raise_user_error_or_return_data(name, data):
    """Whatever is cut off or flipped: the text, or a sentence; never another exception."""
    packed = bytearray(PACK[name](b"a ladder has layers. " * 20))
    if data.draw(st.booleans()):
        del packed[data.draw(st.integers(0, len(packed) - 1)) :]
    else:
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read(bytes(packed), name)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", [name for name in PACKED if name != "t.tar"])
def test_truncated_archives_are_refused(name):
    packed = PACK[name](bytes(range(256)) * 100)
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(packed[: len(packed) // 2], name)


def test_tar_truncated_inside_a_file_is_refused():
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(tarred(b"x" * 5000)[:3000], "t.tar")


@pytest.mark.parametrize("inner", ["../evil", "a/../../evil", "/etc/evil", "C:\\evil", "..\\evil"])
@pytest.mark.parametrize("pack", [("t.tar", tarred), ("t.zip", lambda data, name: zipped(data, name=name))])
def test_member_paths_outside_the_archive_are_refused(inner, pack):
    name, make = pack
    with pytest.raises(UserError, match="a path that leaves the archive, and is refused"):
        read(make(b"x", name=inner), name)


@pytest.mark.parametrize("name", ["t.gz", "t.xz", "t.bz2", "t.zst", "t.zip", "t.tar.gz"])
def test_zip_bomb_is_refused(name):
    with pytest.raises(UserError, match="as a bomb does, and is refused"):
        read(PACK[name](bytes(80 << 20)), name)


def test_zip_bomb_of_many_members_is_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20):
            archive.writestr(f"{number}", bytes(5 << 20))
    with pytest.raises(UserError, match="as a bomb does"):
        read(out.getvalue(), "t.zip")


def test_an_encrypted_zip_is_refused():
    packed = bytearray(zipped(b"secret"))
    place = packed.rindex(b"PK\x01\x02")
    packed[place + 8] |= 1
    with pytest.raises(UserError, match=r"t\.zip is encrypted"):
        read(bytes(packed), "t.zip")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_only_regular_files_of_a_tar_are_read(kind):
    assert read(tarred(b"", kind=kind), "t.tar") == b""


def test_zip_from_a_stream_is_refused():
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with pytest.raises(UserError, match="a zip is read from its end"):
        list(unpack(Pipe(zipped(b"x")), "t.zip", None))


def test_members_keep_their_order_and_names():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("b", "folder/", "folder/a", "ü"):
            archive.writestr(name, name)
    out.seek(0)
    found = [(name, b"".join(chunks).decode()) for name, chunks in unpack(out, "t.zip", 1000)]
    assert found == [("t.zip/b", "b"), ("t.zip/folder/a", "folder/a"), ("t.zip/ü", "ü")]


def test_missing_zst_reader_names_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "backports", None)
    with pytest.raises(UserError, match=r'pip install "charladder\[zst\]"'):
        read(b"x", "t.zst")


def test_wrong_checksum_is_refused():
    packed = bytearray(gzip.compress(b"ladder"))
    packed[-8:-4] = (zlib.crc32(b"ladder") ^ 1).to_bytes(4, "little")
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(bytes(packed), "t.gz")


def three_files() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}")
            member.size = 3000
            archive.addfile(member, io.BytesIO(b"x" * 3000))
    return out.getvalue()


@pytest.mark.parametrize("length", [3584, 3584 + 100, 2 * 3584])
def test_tar_truncated_at_or_in_a_header_is_refused(length):
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(three_files()[:length], "t.tar")


def test_a_tar_with_a_damaged_header_is_refused():
    packed = bytearray(three_files())
    packed[3584 + 5] ^= 1
    with pytest.raises(UserError, match="a header is broken or missing"):
        read(bytes(packed), "t.tar")


def test_two_concatenated_tars_are_refused():
    with pytest.raises(UserError, match="there is more after its end"):
        read(three_files() * 2, "t.tar")


def test_checksum_of_a_compressed_tar_is_compared():
    packed = bytearray(gzip.compress(tarred(b"ladder")))
    packed[-5] ^= 1
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(bytes(packed), "t.tar.gz")


def test_huge_member_name_in_a_tar_is_refused():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("x" * (80 << 20)))
    with pytest.raises(UserError, match="as a bomb does"):
        read(gzip.compress(out.getvalue()), "t.tar.gz")


@pytest.mark.parametrize("name", ["t.xz", "t.bz2", "t.gz", "t.zst"])
def test_damaged_later_stream_is_refused(name):
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(PACK[name](b"one" * 1000) + b"X" + PACK[name](b"two" * 1000)[1:], name)


def test_padding_between_xz_streams_is_skipped():
    assert read(lzma.compress(b"one ") + bytes(8) + lzma.compress(b"two") + bytes(4), "t.xz") == b"one two"


@pytest.mark.parametrize("name", ["t.bz2", "t.zst"])
def test_zeros_after_bz2_and_zst_streams_are_refused(name):
    """What a download that reserves its room first leaves, where it was broken off between two streams."""
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(PACK[name](b"one") + bytes(1000), name)


def test_damaged_lzma_member_of_a_zip_is_refused():
    packed = bytearray(zipped(bytes(range(256)) * 100, zipfile.ZIP_LZMA))
    for place in range(60, 200):
        packed[place] ^= 0xFF
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(bytes(packed), "t.zip")


def test_skippable_zst_frames_are_skipped():
    skipped = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
    assert read(skipped + zstd.compress(b"one ") + skipped + zstd.compress(b"two") + skipped, "t.zst") == b"one two"


def member(name: str, mode: int, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info, data


def test_links_and_devices_in_an_archive_are_left_out():
    packed, tape = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(*member("a", stat.S_IFREG | 0o644, b"one "))
        archive.writestr(*member("link", stat.S_IFLNK | 0o777, b"/etc/passwd"))
        archive.writestr(*member("pipe", stat.S_IFIFO | 0o644, b"pipe"))
        archive.writestr(*member("b", 0, b"two"))  # made where files have no modes
    with tarfile.open(fileobj=tape, mode="w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert read(packed.getvalue(), "t.zip") == b"one two"
    assert read(tape.getvalue(), "t.tar") == b""
