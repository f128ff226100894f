use std::io;

use super::*;

/// Gives at most `step` bytes at once.
#[derive(Clone)]
struct Short<'a>(&'a [u8], usize);

impl Read for Short<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = out.len().min(self.1);
        self.0.read(&mut out[..n])
    }
}

/// What both inflaters make of it.
fn plain(reader: impl Read + Clone) -> Result<Vec<u8>> {
    let fast = decode(reader.clone()).and_then(all);
    let copyable = decode_copyable(reader).and_then(all);
    match (&fast, &copyable) {
        (Ok(fast), Ok(copyable)) => assert!(fast == copyable),
        (Err(fast), Err(copyable)) => assert_eq!(fast.to_string(), copyable.to_string()),
        _ => panic!("{fast:?} {copyable:?}"),
    }
    fast
}

fn all(mut decoder: Decoder<impl Read>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let read = decoder.read_to_end(&mut out);
    read.map_err(|error| Error::io(Kind::Local, error))?;
    Ok(out)
}

fn member(data: &[u8], flags: u8, extra: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255];
    out.extend_from_slice(extra);
    out.extend_from_slice(&miniz_oxide::deflate::compress_to_vec(data, 6));
    out.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out
}

fn gzip(data: &[u8]) -> Vec<u8> {
    member(data, 0, b"")
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
    zstd_safe::compress(&mut out, data, 3).unwrap();
    out
}

/// Neither all alike nor random; longer than every buffer.
fn sample(length: usize) -> Vec<u8> {
    let mut x = 1u32;
    let step = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 28) as u8 ^ (x >> 20) as u8 & 3
    };
    std::iter::repeat_with(step).take(length).collect()
}

#[test]
fn compression_is_told_by_the_first_bytes() {
    for length in [0, 1, 9, 10, 511, 70_000, 262_144, 524_288, 1_000_000] {
        let data = sample(length);
        for packed in [data.clone(), gzip(&data), zstd(&data)] {
            assert!(plain(packed.as_slice()).unwrap() == data, "{length}");
            for step in [1, 7, 1000, 65_537] {
                if length < 100_000 || step > 7 {
                    assert!(
                        plain(Short(&packed, step)).unwrap() == data,
                        "{length} {step}"
                    );
                }
            }
        }
    }
}

#[test]
fn several_members_and_frames_are_one_stream() {
    let (a, b) = (sample(300_000), sample(5));
    let both = [&a[..], &b].concat();
    assert!(plain([gzip(&a), gzip(b""), gzip(&b)].concat().as_slice()).unwrap() == both);
    let skippable = b"\x52\x2a\x4d\x18\x03\0\0\0xyz";
    let frames = [skippable, &zstd(&a)[..], skippable, &zstd(&b)].concat();
    assert!(plain(frames.as_slice()).unwrap() == both);
    for step in [1, 65_536] {
        let members = [gzip(&a), gzip(&b)].concat();
        assert!(plain(Short(&members, step)).unwrap() == both);
        assert!(plain(Short(&frames, step)).unwrap() == both);
    }
}

#[test]
fn gzip_headers_may_hold_names_comments_extras_and_a_checksum() {
    let mut header = vec![0x1f, 0x8b, 8, 0x1f, 1, 2, 3, 4, 0, 255];
    let extra = b"\x03\0abcname\0comment\0";
    header.extend_from_slice(extra);
    let crc = crc32fast::hash(&header) as u16;
    let fields = [&extra[..], &crc.to_le_bytes()].concat();
    assert_eq!(
        plain(member(b"data", 0x1f, &fields).as_slice()).unwrap(),
        b"data"
    );
    let fields = [&extra[..], &(crc ^ 1).to_le_bytes()].concat();
    let error = plain(member(b"data", 0x1f, &fields).as_slice()).unwrap_err();
    assert!(error.to_string().contains("header's checksum"), "{error}");
}

#[test]
fn a_stream_cut_off_anywhere_is_the_images_fault() {
    let data = sample(3_000);
    for packed in [gzip(&data), zstd(&data), [gzip(b"x"), gzip(&data)].concat()] {
        let whole_members = [0, gzip(b"x").len(), packed.len()];
        for length in (3..packed.len()).filter(|length| !whole_members.contains(length)) {
            // Three bytes of zstd's magic are not enough to tell it.
            if packed[0] == 0x28 && length < 4 {
                continue;
            }
            let error = plain(&packed[..length]).unwrap_err();
            assert_eq!(error.kind(), Kind::Hostile, "{length}: {error}");
            let text = error.to_string();
            assert!(text.ends_with("ends in the middle"), "{length}: {text}");
        }
    }
}

#[test]
fn what_follows_a_gzip_stream_is_padding_or_an_error() {
    let padded = [gzip(b"data"), vec![0; 70_000]].concat();
    assert_eq!(plain(padded.as_slice()).unwrap(), b"data");
    for rest in [&b"x"[..], b"\0\0x", b"\x1f\x8c", b"tar"] {
        let error = plain([&gzip(b"data")[..], rest].concat().as_slice()).unwrap_err();
        assert_eq!(error.kind(), Kind::Hostile, "{error}");
    }
    let error = plain([&zstd(b"data")[..], b"garbage"].concat().as_slice()).unwrap_err();
    assert_eq!(error.kind(), Kind::Hostile, "{error}");
}

#[test]
fn broken_streams_say_what_is_wrong() {
    let data = sample(1_000);
    let good = gzip(&data);
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        plain(bad.as_slice()).unwrap_err().to_string()
    };
    let end = good.len();
    for (text, why) in [
        (with(2, 7), "its method is not deflate"),
        (with(3, 0x80), "its header has reserved flags"),
        (with(10, 7), "its compressed data makes no sense"),
        (
            with(end - 8, good[end - 8] ^ 1),
            "its checksum (CRC-32) is wrong",
        ),
        (with(end - 1, 9), "its size is not the one it gives itself"),
    ] {
        assert_eq!(text, format!("the gzip stream is broken: {why}"));
    }
    // A window of 256 MiB: descriptor byte 0x90, no content size, not a single segment.
    let error = plain(&b"\x28\xb5\x2f\xfd\x00\x90\x01\0\0"[..]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the zstd stream has a window of more than 128 MiB, the most that is accepted; compress it with \
         `--long=27` at most"
    );
    assert!(
        plain(&b"\x28\xb5\x2f\xfd\x00\x88\x01\0\0"[..])
            .unwrap()
            .is_empty()
    );
}

#[test]
fn other_compressions_are_named() {
    for (start, name) in [
        (&b"\xfd7zXZ\0\0\0\0\0\0"[..], "xz"),
        (b"BZh91AY&SY....", "bzip2"),
        (b"BZh9\x17rE8P\x90....", "bzip2"),
        (b"\x04\x22\x4d\x18....", "lz4"),
    ] {
        let error = plain(start).unwrap_err();
        let text = format!("it is compressed with {name};");
        assert!(error.to_string().starts_with(&text), "{error}");
    }
    assert_eq!(plain(&b"BZh9 is a name"[..]).unwrap(), b"BZh9 is a name");
}

#[test]
fn what_the_reader_says_passes_through() {
    #[derive(Clone)]
    struct Failing<'a>(&'a [u8]);
    impl Read for Failing<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.0.read(out)? {
                0 => Err(Error::new(Kind::Network, "connection reset").into_io()),
                n => Ok(n),
            }
        }
    }
    let data = sample(200_000);
    for packed in [data.clone(), gzip(&data), zstd(&data)] {
        for length in [0, 5, packed.len() / 2] {
            let error = plain(Failing(&packed[..length])).unwrap_err();
            assert_eq!(error.kind(), Kind::Network);
            assert_eq!(error.to_string(), "connection reset");
        }
    }
}

/// One bit or one byte is wrong somewhere: it is found, and both inflaters find it.
#[test]
fn no_changed_byte_goes_unnoticed() {
    let data = sample(20_000);
    let good = gzip(&data);
    let mut x = 1u64;
    for _ in 0..3_000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (x >> 33) as usize % good.len();
        let flip = match x >> 20 & 1 {
            0 => 1 << (x >> 24 & 7),
            _ => (x >> 24 & 0xff) as u8,
        };
        let mut bad = good.clone();
        bad[at] ^= flip;
        let plain = |decoded: Result<Vec<u8>>| decoded.ok();
        let fast = plain(decode(bad.as_slice()).and_then(all));
        let copyable = plain(decode_copyable(bad.as_slice()).and_then(all));
        assert!(fast == copyable, "byte {at}, {flip:#x}");
        // Time, extra flags and system say nothing; a broken magic makes it no gzip.
        if let Some(fast) = fast
            && at > 9
        {
            assert!(fast == data, "byte {at}, {flip:#x}");
        }
    }
}
