use std::fmt::Write as _;
use std::io::{BufReader, Read};

use super::*;
use crate::archive::decode;
use crate::archive::testing::{Layer, Spec, layer};

/// One line for each entry, with a sum of its data.
fn listing(tar: impl BufRead) -> Result<String> {
    let mut out = String::new();
    let mut entries = Entries::new(tar);
    while let Some((entry, data)) = entries.next()? {
        let mtime = entry.mtime;
        write!(
            out,
            "{:?} {:o} {}:{} {}.{:09} {}",
            entry.kind,
            entry.mode,
            entry.uid,
            entry.gid,
            mtime.seconds,
            mtime.nanoseconds,
            entry.name().escape_ascii(),
        )
        .unwrap();
        if !entry.link().is_empty() {
            write!(out, " -> {}", entry.link().escape_ascii()).unwrap();
        }
        for (name, value) in entry.xattrs() {
            let (name, value) = (name.escape_ascii(), value.escape_ascii());
            write!(out, " {name}={value}").unwrap();
        }
        if entry.kind == EntryKind::File {
            let mut bytes = Vec::new();
            data.read_to(&mut bytes)?;
            let file = match entry.extents() {
                None => bytes,
                Some(extents) => {
                    let mut file = vec![0; entry.size as usize];
                    let mut bytes = bytes.as_slice();
                    for extent in extents {
                        let (start, end) = (extent.offset, extent.offset + extent.length);
                        let part = &mut file[start as usize..end as usize];
                        bytes.read_exact(part).unwrap();
                    }
                    assert!(bytes.is_empty());
                    file
                }
            };
            assert_eq!(file.len() as u64, entry.size);
            let shown = match file.len() {
                0..40 => format!("{:?}", String::from_utf8_lossy(&file)),
                _ => format!("{} bytes, {:08x}", file.len(), crc32fast::hash(&file)),
            };
            write!(out, " {shown}").unwrap();
        }
        out.push('\n');
    }
    Ok(out)
}

fn read(layer: Layer) -> Result<String> {
    listing(layer.0.as_slice())
}

fn refused(layer: Layer) -> String {
    let error = read(layer).unwrap_err();
    assert_eq!(error.kind(), Kind::Hostile, "{error}");
    error.to_string()
}

/// What `tar -tv` of GNU tar 1.34 says of its own archives in `fixtures`.
fn made_by_gnu_tar(nanoseconds: bool) -> String {
    let long = format!("d/long-{}", "n".repeat(95));
    let (half, odd) = match nanoseconds {
        true => ("500000000", "123456789"),
        false => ("000000000", "000000000"),
    };
    let lines = [
        "Directory 1777 0:0 1000000000.000000000 d/".to_owned(),
        format!("Directory 755 0:0 1000000000.000000000 {long}/"),
        format!(
            "File 644 0:0 1000000000.000000000 {long}/{} \"deep\"",
            "f".repeat(60)
        ),
        "File 644 0:0 1000000000.000000000 hole 1048576 bytes, a738ea1c".to_owned(),
        format!("File 4751 0:0 -2.{half} plain \"plain file\\n\""),
        format!("Link 4751 0:0 -2.{half} hard -> plain"),
        format!("File 644 0:0 1234567890.{odd} sparse 3944505 bytes, SPARSE"),
        format!(
            "Symlink 777 0:0 1000000001.000000000 sym -> {}",
            "x".repeat(150)
        ),
        "File 644 70000:2100001 1000000000.000000000 tail 100000 bytes, TAIL".to_owned(),
        "Fifo 644 0:0 7.000000000 fifo".to_owned(),
    ];
    lines.join("\n") + "\n"
}

#[test]
fn every_format_of_gnu_tar_is_read_as_gnu_tar_reads_it() {
    let mut sparse = Vec::new();
    for part in 0..30 {
        sparse.extend_from_slice(&[b'A' + part % 26; 4096]);
        sparse.resize(131_072 * (usize::from(part) + 1), 0);
    }
    sparse.resize(30 * 131_072 + 12_345, 0);
    let mut tail = vec![0; 99_990];
    tail.extend_from_slice(b"0123456789");
    let expected = |nanoseconds| {
        made_by_gnu_tar(nanoseconds)
            .replace("SPARSE", &format!("{:08x}", crc32fast::hash(&sparse)))
            .replace("TAIL", &format!("{:08x}", crc32fast::hash(&tail)))
            .replace(
                "a738ea1c",
                &format!("{:08x}", crc32fast::hash(&[0; 1 << 20])),
            )
    };
    let fixtures: [(&[u8], bool); 5] = [
        (include_bytes!("../fixtures/gnu.tar.gz"), false),
        (include_bytes!("../fixtures/oldgnu.tar.gz"), false),
        (include_bytes!("../fixtures/pax-0.0.tar.gz"), true),
        (include_bytes!("../fixtures/pax-0.1.tar.gz"), true),
        (include_bytes!("../fixtures/pax-1.0.tar.gz"), true),
    ];
    for (fixture, nanoseconds) in fixtures {
        for buffer in [1, 511, 512, 70_000] {
            let tar = BufReader::with_capacity(buffer, decode(fixture).unwrap());
            assert_eq!(listing(tar).unwrap(), expected(nanoseconds));
        }
    }
}

#[test]
fn an_empty_stream_is_an_empty_layer() {
    assert_eq!(listing(&b""[..]).unwrap(), "");
    assert_eq!(listing(&[0; 512][..]).unwrap(), "");
    assert_eq!(listing(&[0; 1024][..]).unwrap(), "");
    assert_eq!(listing(&[0; 10_240][..]).unwrap(), "");
}

#[test]
fn a_tar_may_end_at_an_entry_and_nowhere_else() {
    let whole = layer().file("a", "data").file("b", "");
    let listed = read(whole.clone()).unwrap();
    for end in 0..=whole.0.len() {
        let result = listing(&whole.0[..end]);
        match end {
            0 => assert_eq!(result.unwrap(), ""),
            // The padding of the last entry may be missing.
            516..=1024 => assert_eq!(
                result.unwrap() + "File 644 0:0 1000.000000000 b \"\"\n",
                listed
            ),
            1536 => assert_eq!(result.unwrap(), listed),
            _ => {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), Kind::Hostile);
                assert_eq!(
                    error.to_string(),
                    "the tar stream ends in the middle",
                    "{end}"
                );
            }
        }
    }
    let extension = layer().block(b'x', b"", b"", b"9 path=a\n", |_| {});
    assert_eq!(
        refused(extension.clone()),
        "the tar stream ends in the middle"
    );
    let mut then_zeros = extension;
    then_zeros.0.resize(4096, 0);
    assert_eq!(refused(then_zeros), "the tar stream ends in the middle");
}

#[test]
fn what_follows_the_end_is_left_to_the_caller() {
    let mut tar = layer().file("a", "data").0;
    tar.resize(tar.len() + 1024, 0);
    tar.extend_from_slice(b"trailing bytes");
    let mut reader = tar.as_slice();
    listing(&mut reader).unwrap();
    assert_eq!(reader, b"trailing bytes");
}

#[test]
fn a_tar_that_goes_on_after_its_end_is_refused() {
    let mut tar = layer().file("a", "");
    tar.0.resize(tar.0.len() + 512, 0);
    let tar = tar.file("b", "");
    assert!(refused(tar).starts_with("the tar goes on after a block of zeros"));
}

#[test]
fn pax_records_win_over_the_header() {
    let pax = |records: &[(&str, &[u8])]| {
        read(layer().spec(Spec {
            name: b"short",
            data: b"12345",
            pax: records,
            ..Spec::default()
        }))
        .unwrap()
    };
    for (records, line) in [
        (
            &[("path", &b"l\xc3\xb6ng\n"[..]), ("mtime", b"-1.25")][..],
            "File 644 0:0 -2.750000000 l\\xc3\\xb6ng\\n \"12345\"\n",
        ),
        (
            &[("uid", b"4294967294"), ("gid", b"2097152"), ("size", b"5")],
            "File 644 4294967294:2097152 1000.000000000 short \"12345\"\n",
        ),
        (
            &[
                ("path", b"x"),
                ("path", b""),
                ("atime", b"1"),
                ("uname", b"me"),
                ("foo", b"\0"),
            ],
            "File 644 0:0 1000.000000000 short \"12345\"\n",
        ),
        (
            &[
                ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n=\0"),
                ("SCHILY.xattr.user.a", b"1"),
                ("SCHILY.xattr.user.a", b"2"),
            ],
            "File 644 0:0 1000.000000000 short security.capability=\\x01\\x00\\x00\\x02\\n=\\x00 user.a=2 \"12345\"\n",
        ),
    ] {
        assert_eq!(pax(records), line);
    }
}

/// CVE-2026-33055 and CVE-2025-62518: a header says 0, the PAX record says how much follows; what
/// follows is a whole tar header, which must be data.
#[test]
fn the_pax_size_decides_where_the_next_entry_is() {
    let smuggled = layer().file("smuggled", "x").0;
    let size = smuggled.len().to_string();
    let record = format!("{} size={size}\n", size.len() + 9);
    let mut tar = layer()
        .block(b'x', b"", b"", record.as_bytes(), |_| {})
        .block(b'0', b"outer", b"", b"", |_| {});
    tar.0.extend_from_slice(&smuggled);
    let tar = tar.file("after", "");
    let listed = read(tar).unwrap();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(
        listed.contains("outer") && listed.contains("after"),
        "{listed}"
    );
    // A PAX size speaks for the entry, not for a long name in between.
    let tar = layer()
        .block(b'x', b"", b"", b"13 size=1024\n", |_| {})
        .block(b'L', b"", b"", b"named\0", |_| {})
        .block(b'0', b"outer", b"", &smuggled, |_| {})
        .file("after", "");
    let listed = read(tar).unwrap();
    assert!(
        listed.contains("named") && listed.contains("after"),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 2, "{listed}");
}

#[test]
fn a_global_header_stands_for_all_that_follow() {
    let global = |records: &[u8]| {
        read(
            layer()
                .file("a", "")
                .block(b'g', b"", b"", records, |_| {})
                .file("b", "")
                .spec(Spec {
                    name: b"c",
                    pax: &[("uid", b"7")],
                    ..Spec::default()
                }),
        )
    };
    assert_eq!(
        global(b"13 comment=x\n9 uid=12\n11 mtime=2\n").unwrap(),
        "File 644 0:0 1000.000000000 a \"\"\n\
         File 644 12:0 2.000000000 b \"\"\n\
         File 644 7:0 2.000000000 c \"\"\n"
    );
    for records in [
        &b"9 path=x\n"[..],
        b"13 linkpath=x\n",
        b"9 size=1\n",
        b"22 GNU.sparse.major=1\n",
    ] {
        assert!(global(records).is_err(), "{}", records.escape_ascii());
    }
}

#[test]
fn long_names_of_gnu_tar_and_names_with_a_prefix() {
    let long = "x/".repeat(120);
    let tar = layer()
        .block(
            b'L',
            b"././@LongLink",
            b"",
            format!("{long}\0").as_bytes(),
            |_| {},
        )
        .block(b'K', b"././@LongLink", b"", b"target\0rest", |_| {})
        .block(b'2', b"cut", b"cut", b"", |_| {})
        .block(b'0', b"name", b"", b"", |header| {
            header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"a/b");
        })
        // V7: what is no ustar has no prefix.
        .block(b'0', b"v7", b"", b"", |header| {
            header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"a/b");
            header.as_mut_bytes()[257..265].fill(0);
        })
        .block(0, b"v7-dir/", b"", b"", |header| {
            header.as_mut_bytes()[257..265].fill(0);
        })
        // GNU: times where the prefix would be.
        .block(b'0', b"gnu", b"", b"", |header| {
            header.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
            header.as_mut_bytes()[345..357].copy_from_slice(b"12345670123\0");
        })
        // Go before 1.8.
        .block(b'0', b"go", b"", b"", |header| {
            header.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
            header.as_mut_bytes()[345..355].copy_from_slice(b"the/prefix");
        })
        .block(b'0', b"star", b"", b"", |header| {
            header.as_mut_bytes()[345..348].copy_from_slice(b"a/b");
            header.as_mut_bytes()[476..488].copy_from_slice(b"12345670123\0");
            header.as_mut_bytes()[508..512].copy_from_slice(b"tar\0");
        });
    let listed = read(tar).unwrap();
    let names: Vec<_> = listed
        .lines()
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    assert_eq!(
        names,
        [
            &long[..],
            "a/b/name",
            "v7",
            "v7-dir/",
            "gnu",
            "the/prefix/go",
            "a/b/star"
        ]
    );
    assert!(listed.contains(&format!("Symlink 644 0:0 0.000000000 {long} -> target\n")));
    assert!(listed.contains("Directory 644 0:0 0.000000000 v7-dir/\n"));
}

#[test]
fn what_two_programs_read_differently_is_refused() {
    let file = || layer().block(b'x', b"", b"", b"9 path=a\n", |_| {});
    for (tar, why) in [
        (
            file().block(b'x', b"", b"", b"9 path=b\n", |_| {}),
            "two headers of one kind",
        ),
        (
            layer()
                .block(b'L', b"", b"", b"a\0", |_| {})
                .block(b'L', b"", b"", b"b\0", |_| {}),
            "two headers of one kind",
        ),
        (
            file().block(b'L', b"", b"", b"b\0", |_| {}).file("c", ""),
            "a tar entry with two names: `b` and `a`",
        ),
        (
            layer().block(b'5', b"d", b"", b"data", |_| {}),
            "`d`: a Directory entry with 4 bytes",
        ),
        (
            layer().block(b'2', b"s", b"t", b"data", |_| {}),
            "`s`: a Symlink entry with 4 bytes",
        ),
        (
            layer().block(b'0', b"d/", b"", b"data", |_| {}),
            "`d/`: a Directory entry with 4 bytes",
        ),
        (
            layer().block(b'D', b"d", b"", b"", |_| {}),
            "`d`: a tar entry of type `D`",
        ),
        (
            layer().block(b'M', b"d", b"", b"", |_| {}),
            "`d`: a tar entry of type `M`",
        ),
        (
            layer().block(0xff, b"d", b"", b"", |_| {}),
            "`d`: a tar entry of type `\\xff`",
        ),
    ] {
        let text = refused(tar);
        assert!(text.starts_with(why), "{text}");
    }
    // A hard link has no data of its own whatever its size says.
    let tar = layer()
        .block(b'1', b"h", b"t", b"", |header| header.set_size(5))
        .file("f", "");
    assert_eq!(read(tar).unwrap().lines().count(), 2);
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let with = |set: fn(&mut tar::Header)| refused(layer().block(b'0', b"f", b"", b"", set));
    for (text, why) in [
        (
            with(|h| h.set_uid(u64::from(u32::MAX))),
            "`f`: 4294967295 can be no user's id",
        ),
        (
            with(|h| h.set_gid(1 << 32)),
            "`f`: 4294967296 can be no group's id",
        ),
        (
            with(|h| h.as_old_mut().uid = *b"\xff\xff\xff\xff\xff\xff\xff\xff"),
            "`f`: -1 can be no",
        ),
        (
            with(|h| h.as_old_mut().uid = *b"12x\0\0\0\0\0"),
            "`f`: a tar header's user id",
        ),
        (
            with(|h| h.as_old_mut().mode = *b"rwxrwx\0\0"),
            "`f`: a tar header's mode is no",
        ),
        (
            with(|h| h.as_old_mut().size = *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            "`f`: a size below zero",
        ),
        (
            with(|h| h.as_old_mut().size = [b'9'; 12]),
            "`f`: a tar header's size",
        ),
        (
            with(|h| h.set_size(u64::MAX >> 1)),
            "the tar stream ends in the middle",
        ),
    ] {
        assert!(text.starts_with(why), "{text}");
    }
    for (records, why) in [
        (&b"17 uid=4294967295\n"[..], "PAX record"),
        (b"18 uid=4294967295\n", "`f`: 4294967295 can be no"),
        (b"10 gid=-1\n", "`f`: -1 can be no group's id"),
        (
            b"28 size=9223372036854775808\n",
            "`f`: a size that cannot be",
        ),
        (b"9 size=-1\n", "a PAX record"),
    ] {
        let text = refused(layer().block(b'x', b"", b"", records, |_| {}).file("f", ""));
        assert!(text.contains(why), "{text}");
    }
    let mut wrong = layer().file("f", "");
    wrong.0[0] = b'g';
    assert!(refused(wrong).starts_with("a tar header's checksum is wrong"));
    assert!(listing(&b"<html>".repeat(200)[..]).is_err());
}

#[test]
fn checksums_of_signed_bytes_are_taken() {
    let mut tar = layer().file("\u{e9}", "");
    let header: &mut [u8] = &mut tar.0[..512];
    header[148..156].fill(b' ');
    let sum: i64 = header
        .iter()
        .map(|byte| i64::from(byte.cast_signed()))
        .sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(read(tar).unwrap().contains("\\xc3\\xa9"));
}

/// Nothing a header announces is believed before it is limited: no memory, no endless work.
#[test]
fn extensions_are_bounded() {
    let announce = |kind: u8, size: u64| {
        refused(layer().block(kind, b"", b"", b"", |header| header.set_size(size)))
    };
    assert!(announce(b'L', 8 * 1024 + 1).starts_with("a name of 8193 bytes"));
    assert!(announce(b'K', 1 << 40).starts_with("a name of"));
    assert!(announce(b'x', (1 << 20) + 1).starts_with("a PAX header of 1048577 bytes"));
    assert!(announce(b'g', 1 << 40).starts_with("a PAX header of"));
    assert_eq!(announce(b'x', 1 << 20), "the tar stream ends in the middle");
}

#[test]
fn sparse_maps_that_make_no_sense_are_refused() {
    let with = |pax: &[(&str, &[u8])], data: &[u8]| {
        read(layer().spec(Spec {
            name: b"f",
            data,
            pax,
            ..Spec::default()
        }))
    };
    let map = |map: &[u8], size: &[u8], data: &[u8]| {
        with(&[("GNU.sparse.map", map), ("GNU.sparse.size", size)], data)
    };
    assert!(
        map(b"0,1,5,1", b"10", b"ab")
            .unwrap()
            .contains("\"a\\0\\0\\0\\0b\\0\\0\\0\\0\"")
    );
    assert!(map(b"10,0", b"10", b"").is_ok());
    for (text, size, data) in [
        (&b"0,1,5,1"[..], &b"5"[..], &b"ab"[..]), // longer than the file
        (b"0,1,5,1", b"10", b"a"),                // fewer data
        (b"0,1,5,1", b"10", b"abc"),              // more data
        (b"5,1,0,1", b"10", b"ab"),               // out of order
        (b"0,2,1,1", b"10", b"abc"),              // overlap
        (b"0,1,5", b"10", b"ab"),                 // half a part
        (b"0,1,,1", b"10", b"ab"),
        (b"0,1,+5,1", b"10", b"ab"),
        (b"0,18446744073709551615", b"10", b"ab"),
        (b"18446744073709551615,1", b"10", b"a"),
    ] {
        let error = map(text, size, data).unwrap_err();
        assert_eq!(error.kind(), Kind::Hostile);
        assert!(
            error.to_string().contains("a sparse file makes no sense"),
            "{error}"
        );
    }
    let one_0 = |data: &[u8]| {
        let pax: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.realsize", b"10"),
        ];
        with(&pax, data)
    };
    let padded = |map: &[u8], rest: &[u8]| {
        let mut data = map.to_vec();
        data.resize(512, 0);
        data.extend_from_slice(rest);
        data
    };
    assert!(
        one_0(&padded(b"1\n3\n2\n", b"ab"))
            .unwrap()
            .contains("real \"\\0\\0\\0ab")
    );
    for data in [
        padded(b"1\n3\n2\n", b"a"),
        padded(b"2\n3\n2\n", b"ab"),
        padded(b"1\n3\n", b"ab"),
        padded(b"99999999999999999999999\n", b"ab"),
        b"1\n3\n2\n".to_vec(),
        b"".to_vec(),
    ] {
        assert_eq!(one_0(&data).unwrap_err().kind(), Kind::Hostile);
    }
    for pax in [
        &[
            ("GNU.sparse.name", &b"a\0b"[..]),
            ("GNU.sparse.map", b"0,0"),
            ("GNU.sparse.size", b"0"),
        ][..],
        &[
            ("GNU.sparse.major", &b"2"[..]),
            ("GNU.sparse.realsize", b"1"),
        ][..],
        &[("GNU.sparse.major", b"1")],
        &[("GNU.sparse.offset", b"0"), ("GNU.sparse.size", b"1")],
        &[("GNU.sparse.numbytes", b"0"), ("GNU.sparse.size", b"1")],
        &[("GNU.sparse.numblocks", b"2"), ("GNU.sparse.size", b"1")],
    ] {
        assert!(with(pax, b"").is_err(), "{pax:?}");
    }
}

#[test]
fn a_sparse_map_without_end_costs_no_memory_without_end() {
    // 70,000 parts of one byte at every second place.
    let mut map = String::from("70000\n");
    for part in 0..70_000u64 {
        writeln!(map, "{}\n1", 2 * part).unwrap();
    }
    let size = (map.len().next_multiple_of(512) + 70_000) as u64;
    let record = format!("{} size={size}\n", size.to_string().len() + 9);
    let pax = format!(
        "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n30 GNU.sparse.realsize=140000\n{record}"
    );
    let mut tar =
        layer()
            .block(b'x', b"", b"", pax.as_bytes(), |_| {})
            .block(b'0', b"f", b"", b"", |_| {});
    tar.0.extend_from_slice(map.as_bytes());
    assert!(refused(tar).contains("more than 65,536 parts"));
    // The same in blocks of an old GNU header, which never end.
    let mut tar = layer().block(b'S', b"f", b"", b"", |header| {
        header.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
        header.as_mut_bytes()[482] = 1;
        header.as_mut_bytes()[483..495].copy_from_slice(b"77777777777\0");
    });
    for block in 0..4_000u64 {
        let mut bytes = [0; 512];
        for part in 0..21 {
            let offset = format!("{:011o}\0{:011o}\0", 2 * (block * 21 + part), 1);
            bytes[part as usize * 24..][..24].copy_from_slice(offset.as_bytes());
        }
        bytes[504] = 1;
        tar.0.extend_from_slice(&bytes);
    }
    assert!(refused(tar).contains("more than 65,536 parts"));
}
