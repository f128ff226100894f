//! Compressed tarballs: members by name without a temporary file.
//!
//! A compressed stream can only be read from its start, so the tarball is inflated once to find its
//! members. On the way the state of the decoder is kept here and there; a member is then read from
//! the state before it, and several threads may do so at once. A zstd decoder cannot be copied: there
//! each member costs decoding what lies before it.

use std::io::{self, BufRead, Read};

use super::files::{Span, start};
use super::members::{Extent, Members};
use crate::archive::members::{Forward, is_tar};
use crate::archive::{Compression, Decoder, decode, decode_copyable};
use crate::error::{Error, Kind, Result};

/// States that are kept: 330 KiB each.
const KEPT: usize = 16;

/// Plain bytes between two states at first; it doubles when there are too many.
const APART: u64 = if cfg!(test) { 64 << 10 } else { 4 << 20 };

/// How to get to a place in the plain stream.
pub(super) struct Packed {
    /// Ordered by place.
    states: Vec<(u64, Decoder<Span>)>,
}

impl Packed {
    /// Lists the members of the tar that is compressed in `file`; `None` where it is not compressed.
    ///
    /// # Errors
    /// A compression that is not supported; a stream that is broken anywhere, or holds no tar.
    pub(super) fn index(file: &Span) -> Result<Option<(Packed, Members)>> {
        let decoder = decode_copyable(file.clone())?;
        if decoder.compression() == Compression::None {
            return Ok(None);
        }
        if !is_tar(&start(decode(file.clone())?)?) {
            return Err(Error::local("it is compressed, but holds no tarball"));
        }
        let mut stream = Stream {
            decoder,
            at: 0,
            apart: APART,
            states: Some(Vec::new()),
        };
        let members = Members::list(&mut stream)?;
        // What follows the tar's end marker: the checksum of the stream is behind it.
        let drained = io::copy(&mut stream.decoder, &mut io::sink());
        drained.map_err(|error| Error::io(Kind::Local, error))?;
        let states = stream.states.unwrap_or_default();
        Ok(Some((Packed { states }, members)))
    }

    /// The plain stream from where `extent` begins.
    pub(super) fn open(&self, file: &Span, extent: Extent) -> Result<Stream> {
        let before = self.states.iter().rev().find(|(at, _)| *at <= extent.at);
        let kept = before.and_then(|(at, decoder)| Some((*at, decoder.try_clone()?)));
        let (at, decoder) = match kept {
            Some(kept) => kept,
            None => (0, decode(file.clone())?),
        };
        let mut stream = Stream {
            decoder,
            at,
            apart: APART,
            states: None,
        };
        let skipped = stream.skip(extent.at - at);
        skipped.map_err(|error| Error::io(Kind::Local, error))?;
        Ok(stream)
    }
}

/// A plain stream that is being made from a compressed one.
pub(crate) struct Stream {
    decoder: Decoder<Span>,
    at: u64,
    apart: u64,
    /// While the members are listed.
    states: Option<Vec<(u64, Decoder<Span>)>>,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.decoder.read(buf)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Forward for Stream {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let there = self.decoder.fill_buf()?.len();
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let n = usize::try_from(left).map_or(there, |left| left.min(there));
            self.decoder.consume(n);
            self.at += n as u64;
            left -= n as u64;
        }
        // The member after a large one begins here, or nearly.
        self.keep();
        Ok(())
    }
}

impl Stream {
    fn keep(&mut self) {
        let Some(states) = &mut self.states else {
            return;
        };
        let last = states.last().map_or(0, |(at, _)| *at);
        if self.at - last < self.apart {
            return;
        }
        if let Some(state) = self.decoder.try_clone() {
            states.push((self.at, state));
        }
        if states.len() > KEPT {
            // Every other one goes.
            let mut odd = false;
            states.retain(|_| {
                odd = !odd;
                !odd
            });
            self.apart = self.apart.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::{Parts, Scratch, gzip, layer, read, tree, zstd};
    use crate::store::{Image, Source};
    use crate::workers::Workers;

    /// An image of `count` layers that are large enough for states to be kept between them.
    fn image(count: usize, size: usize) -> Parts {
        let mut parts = Parts::default();
        let mut noise = 1_u64;
        let texts: Vec<String> = (0..count)
            .map(|_| {
                let letter = |_| {
                    noise = noise
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    char::from(b'a' + (noise >> 60) as u8)
                };
                (0..size).map(letter).collect()
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let image = parts.image(&texts);
        parts.layout(&[image]);
        parts
    }

    /// Every blob, by several threads in an order that is not the file's.
    fn contents(source: &Source) -> Vec<Vec<u8>> {
        let digests: Vec<_> = tree(source)
            .blobs()
            .map(|blob| blob.digest.clone())
            .collect();
        Workers::new(3)
            .map(&digests, |digest, _| read(source, digest))
            .unwrap()
    }

    #[test]
    fn members_of_a_compressed_tarball_are_read_in_any_order() {
        let parts = image(6, 200_000);
        let scratch = Scratch::new();
        let plain = contents(&scratch.tarball(&parts).unwrap());
        let tar = parts.tar();
        for packed in [gzip(&tar), zstd(&tar)] {
            let source = scratch.file(packed).unwrap();
            assert_eq!(contents(&source), plain);
        }
        // Two members, the border inside a blob.
        let (head, tail) = tar.split_at(tar.len() / 2);
        let source = scratch.file([gzip(head), gzip(tail)].concat()).unwrap();
        assert_eq!(contents(&source), plain);
    }

    #[test]
    fn states_are_kept_between_large_members_and_are_never_many() {
        let members = 3 * KEPT;
        let mut parts = Parts::default();
        for at in 0..members {
            // The smallest that a state is kept for: headers and padding come on top.
            parts.file(&format!("{at:03}"), vec![at as u8; APART as usize]);
        }
        let scratch = Scratch::new();
        let path = scratch.path().join("packed");
        std::fs::write(&path, gzip(&parts.tar())).unwrap();
        let file = Span::whole(&path).unwrap();
        let (packed, names) = Packed::index(&file).unwrap().unwrap();
        assert!((KEPT / 2..=KEPT).contains(&packed.states.len()));
        for at in [0, 1, members / 2, members - 1] {
            let name = crate::store::layout::named(&format!("{at:03}")).unwrap();
            let extent = names.find(&name).unwrap().unwrap();
            let mut stream = packed.open(&file, extent).unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), at);
        }
    }

    #[test]
    fn a_compressed_docker_save_tarball_has_plain_layers() {
        let tar = layer("a");
        let mut parts = Parts::default();
        let config = crate::store::samples::config(std::slice::from_ref(&tar));
        parts.json("config.json", &config);
        parts.file("layer.tar", &tar);
        let saved = serde_json::json!([{"Config": "config.json", "Layers": ["layer.tar"]}]);
        parts.json("manifest.json", &saved);
        let scratch = Scratch::new();
        let source = scratch.file(gzip(&parts.tar())).unwrap();
        let Image::Loose(loose) = source.image() else {
            panic!("it has no manifest");
        };
        let digest = crate::store::samples::key(&loose.layers[0]);
        assert_eq!(read(&source, digest).unwrap(), tar);
    }

    #[test]
    fn a_broken_stream_is_refused_wherever_it_is_broken() {
        let tar = image(2, 10_000).tar();
        let packed = gzip(&tar);
        let mut wrong_checksum = packed.clone();
        let at = packed.len() - 8;
        wrong_checksum[at] ^= 1;
        for (bytes, why) in [
            (
                packed[..packed.len() / 2].to_vec(),
                "the gzip stream ends in the middle",
            ),
            (
                packed[..packed.len() - 3].to_vec(),
                "the gzip stream ends in the middle",
            ),
            (wrong_checksum, "the gzip stream is broken"),
            (
                zstd(&tar)[..1000].to_vec(),
                "the zstd stream ends in the middle",
            ),
            (
                gzip(b"no tar at all"),
                "it is compressed, but holds no tarball",
            ),
            (gzip(&tar[..tar.len() / 2]), "the tar ends in the middle"),
        ] {
            let scratch = Scratch::new();
            let text = scratch.text(scratch.file(bytes));
            assert!(text.starts_with("read image `/image.tar`: "), "{text}");
            assert!(text.contains(why), "{text}\n{why}");
        }
    }
}
