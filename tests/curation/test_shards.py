"""Shards: equal bytes, random access, roll-over, and one line for every kind of damage."""

from __future__ import annotations

import contextlib
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovi.curation.shards import ShardReader, ShardWriter
from ovi.errors import OviError

MEMBERS = {f"{stem}.{kind}": (stem + kind).encode() * n for n, stem in enumerate("badc", 1) for kind in ("pcm", "json")}


def write(folder: Path, members: dict[str, bytes], max_bytes: int = 1 << 20) -> ShardReader:
    with ShardWriter(folder / "av", max_bytes) as writer:
        for name, data in members.items():
            writer.add(name, data)
    return ShardReader(folder, "av")


def test_members_come_back_in_the_order_they_were_added(tmp_path: Path) -> None:
    reader = write(tmp_path, MEMBERS)
    assert reader.members() == list(MEMBERS)
    assert {name: reader.read(name) for name in reversed(reader.members())} == MEMBERS
    assert "b.pcm" in reader
    assert len(reader) == 8


def test_two_writings_give_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one", MEMBERS)
    write(tmp_path / "two", MEMBERS)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["av-00000.index.json", "av-00000.tar"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_a_shard_is_a_plain_tar_without_times_or_owners(tmp_path: Path) -> None:
    write(tmp_path, MEMBERS)
    with tarfile.open(tmp_path / "av-00000.tar") as tar:
        assert tar.getnames() == list(MEMBERS)
        assert all((info.mtime, info.uid, info.gid, info.uname) == (0, 0, 0, "") for info in tar)
        assert tar.extractfile("d.pcm").read() == MEMBERS["d.pcm"]  # type: ignore[union-attr]


def test_it_rolls_over_and_keeps_the_members_of_one_clip_together(tmp_path: Path) -> None:
    reader = write(tmp_path, MEMBERS, max_bytes=3000)
    assert {name: reader.read(name) for name in reader.members()} == MEMBERS
    assert reader.members() == list(MEMBERS)
    tars = sorted(tmp_path.glob("av-*.tar"))
    assert len(tars) == 4
    for path, stem in zip(tars, "badc", strict=True):
        with tarfile.open(path) as tar:
            assert tar.getnames() == [f"{stem}.pcm", f"{stem}.json"]


def test_a_member_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path) -> None:
    big = {"a.bin": b"1", "b.bin": bytes(range(256)) * 64, "c.bin": b"2"}
    reader = write(tmp_path, big, max_bytes=2048)
    assert {name: reader.read(name) for name in big} == big


def test_an_empty_set_is_a_set(tmp_path: Path) -> None:
    assert write(tmp_path, {}).members() == []


def test_place_points_at_the_bytes(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "av", 1 << 20) as writer:
        writer.add("a.bin", b"first")
        place = writer.add("b.bin", b"second")
    raw = (tmp_path / place.shard).read_bytes()
    assert raw[place.offset : place.offset + place.length] == b"second"


def test_a_name_is_added_once(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "av", 1 << 20) as writer:
        writer.add("a.bin", b"")
        with pytest.raises(ValueError, match="added before"):
            writer.add("a.bin", b"")


def test_a_flipped_bit_is_one_line(tmp_path: Path) -> None:
    reader = write(tmp_path, {"a.bin": b"x" * 1000, "b.bin": b"y" * 1000})
    path = tmp_path / "av-00000.tar"
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"y" * 1000) + 500] ^= 1
    path.write_bytes(raw)
    assert reader.read("a.bin") == b"x" * 1000
    with pytest.raises(OviError, match=r"av-00000\.tar: member 'b\.bin' is damaged"):
        reader.read("b.bin")


def test_a_short_tar_is_one_line(tmp_path: Path) -> None:
    reader = write(tmp_path, {"a.bin": b"x" * 1000})
    path = tmp_path / "av-00000.tar"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(OviError, match="damaged"):
        reader.read("a.bin")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"format": 1, "checksum": "crc32", "last": true, "members": {"a": {}}}']
)
def test_a_broken_index_is_one_line(tmp_path: Path, text: str) -> None:
    write(tmp_path, MEMBERS)
    (tmp_path / "av-00000.index.json").write_text(text)
    with pytest.raises(OviError, match=r"av-00000\.index\.json"):
        ShardReader(tmp_path, "av")


def test_a_future_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path, MEMBERS)
    path = tmp_path / "av-00000.index.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(OviError, match="format 2 "):
        ShardReader(tmp_path, "av")


def test_a_missing_set_and_an_interrupted_writing_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(OviError, match="missing or incomplete"):
        ShardReader(tmp_path, "av")
    with contextlib.suppress(KeyboardInterrupt), ShardWriter(tmp_path / "av", 2048) as writer:
        writer.add("a.bin", b"x" * 2000)
        writer.add("b.bin", b"x" * 2000)
        raise KeyboardInterrupt
    with pytest.raises(OviError, match=r"av-00001\.index\.json"):
        ShardReader(tmp_path, "av")


def test_shards_left_by_a_longer_set_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, MEMBERS, max_bytes=3000)
    assert write(tmp_path, {"z.bin": b"z"}).members() == ["z.bin"]


def test_an_unknown_member_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OviError, match=r"no member 'q\.bin'"):
        write(tmp_path, MEMBERS).read("q.bin")


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,4}\.[a-z]{1,3}", fullmatch=True), st.binary(max_size=1500), max_size=8),
    st.integers(1, 4096),
)
def test_any_members_survive(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], max_bytes: int
) -> None:
    reader = write(tmp_path_factory.mktemp("shards"), members, max_bytes)
    assert {name: reader.read(name) for name in reader.members()} == members
