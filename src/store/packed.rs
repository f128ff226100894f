//! Compressed tarballs: members by name without a temporary file.
//!
//! A compressed stream can only be read from its start, so the tarball is inflated once to find its
//! members. On the way the state of a gzip decoder is kept here and there; a member is then read from
//! the state before it, and several threads may do so at once. A zstd decoder cannot be copied, and
//! its window may take 128 MiB: there is one, which goes on from member to member, so that reading
//! members in their order decodes the tarball once, and not once for each of them.
//!
//! Small members are kept whole on the way, and the first bytes of others, up to a limit: documents,
//! and what a layer is compressed with, cost no decoding then.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex};

use super::members::{Extent, Members};
use super::span::{Span, start};
use crate::archive::members::{Forward, is_tar};
use crate::archive::write::BLOCK;
use crate::archive::{Compression, Decoder, decode, decode_copyable};
use crate::error::{Error, Kind, Result};
use crate::workers::lock;

/// States that are kept: 330 KiB each.
const KEPT: usize = 16;

/// Plain bytes between two states at first; it doubles when there are too many.
const APART: u64 = if cfg!(test) { 64 << 10 } else { 4 << 20 };

/// A member of so many bytes is kept whole: manifests and configs have a few KiB.
const SMALL: u64 = 64 << 10;

/// Of a larger one, as much as tells its compression.
const HEAD: u64 = 16;

/// Bytes of members that are kept, with what each costs beside its bytes. Whole ones leave room for
/// the first bytes of 3,000 others: to open a member once for what it is compressed with and once
/// to read it is to decode from the start of the tarball.
const HEADS_MOST: usize = 1 << 20;
const HEAD_COST: usize = 64;
const LEFT_FOR_HEADS: usize = 256 << 10;

/// How to get to a place in the plain stream.
pub(super) struct Packed {
    /// Ordered by place.
    states: Vec<(u64, Decoder<Span>)>,
    /// The first bytes of members, by where they begin.
    heads: HashMap<u64, Arc<[u8]>>,
    /// For zstd.
    parked: Option<Arc<Parked>>,
}

/// The stream that the last member was read from, as far as it was read.
type Parked = Mutex<Option<Plain>>;

impl Packed {
    /// Lists the members of the tar that is compressed in `file`; `None` where it is not compressed.
    ///
    /// # Errors
    /// A compression that is not supported; a stream that is broken anywhere, or holds no tar.
    pub(super) fn index(file: &Span) -> Result<Option<(Packed, Members)>> {
        let decoder = decode_copyable(file.clone())?;
        let parked = match decoder.compression() {
            Compression::None => return Ok(None),
            Compression::Gzip => None,
            Compression::Zstd => Some(Arc::default()),
        };
        if !is_tar(&start(decode(file.clone())?)?) {
            return Err(Error::local("it is compressed, but holds no tarball"));
        }
        let mut listing = Listing {
            plain: Plain { decoder, at: 0 },
            apart: APART,
            states: Vec::new(),
            heads: HashMap::new(),
            heads_left: HEADS_MOST,
        };
        let members = Members::list(&mut listing)?;
        // What follows the tar's end marker: the checksum of the stream is behind it.
        let drained = io::copy(&mut listing.plain, &mut io::sink());
        drained.map_err(|error| Error::io(Kind::Local, error))?;
        let packed = Packed {
            states: listing.states,
            heads: listing.heads,
            parked,
        };
        Ok(Some((packed, members)))
    }

    /// Whether members have to be read one after another, in their order.
    pub(super) fn is_sequential(&self) -> bool {
        self.parked.is_some()
    }

    /// Where the decoder that is kept goes on.
    #[cfg(test)]
    pub(super) fn parked_at(&self) -> Option<u64> {
        let parked = lock(self.parked.as_ref()?);
        parked.as_ref().map(|plain| plain.at)
    }

    /// The first bytes of a member, all of them where it is small.
    pub(super) fn head(&self, extent: Extent) -> Option<Arc<[u8]>> {
        self.heads.get(&extent.at).cloned()
    }

    /// The plain stream from where `extent` begins.
    pub(super) fn open(&self, file: &Span, extent: Extent) -> Result<Stream> {
        let before = self.states.iter().rev().find(|(at, _)| *at <= extent.at);
        let kept = before.and_then(|(at, decoder)| {
            let (at, decoder) = (*at, decoder.try_clone()?);
            Some(Plain { decoder, at })
        });
        let parked = self.parked.as_ref();
        // One that has come too far is dropped: its window is needed for the next.
        let parked =
            parked.and_then(|parked| lock(parked).take().filter(|plain| plain.at <= extent.at));
        let mut plain = match kept.or(parked) {
            Some(found) => found,
            None => Plain {
                decoder: decode(file.clone())?,
                at: 0,
            },
        };
        let skipped = plain.pass(extent.at - plain.at);
        skipped.map_err(|error| Error::io(Kind::Local, error))?;
        Ok(Stream {
            plain: Some(plain),
            parked: self.parked.clone(),
        })
    }
}

/// The plain stream from where a member begins. When it is dropped, the next member may go on from
/// as far as this one was read.
pub(crate) struct Stream {
    /// Until it is dropped.
    plain: Option<Plain>,
    parked: Option<Arc<Parked>>,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.plain.as_mut().map_or(Ok(0), |plain| plain.read(buf));
        // What has failed leads nowhere.
        read.inspect_err(|_| self.parked = None)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(parked) = &self.parked {
            *lock(parked) = self.plain.take();
        }
    }
}

/// A plain stream that is being made from a compressed one.
struct Plain {
    decoder: Decoder<Span>,
    at: u64,
}

impl Read for Plain {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.decoder.read(buf)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Plain {
    fn pass(&mut self, bytes: u64) -> io::Result<()> {
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
        Ok(())
    }
}

/// The stream while its members are listed.
struct Listing {
    plain: Plain,
    apart: u64,
    states: Vec<(u64, Decoder<Span>)>,
    heads: HashMap<u64, Arc<[u8]>>,
    heads_left: usize,
}

impl Read for Listing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.plain.read(buf)
    }
}

impl Forward for Listing {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let kept = self.keep_head(bytes)?;
        self.plain.pass(bytes - kept)?;
        // The member after a large one begins here, or nearly.
        self.keep_state();
        Ok(())
    }
}

impl Listing {
    /// Keeps the first of the next `bytes`; how many.
    fn keep_head(&mut self, bytes: u64) -> io::Result<u64> {
        let at = self.plain.at;
        let room = self.heads_left.saturating_sub(LEFT_FOR_HEADS) as u64;
        let whole = bytes <= SMALL.min(room);
        let size = if whole { bytes } else { bytes.min(HEAD) };
        let taken = usize::try_from(size).unwrap_or_default();
        // A member begins at a whole block, the padding of one never does.
        let is_member = bytes > 0 && at.is_multiple_of(BLOCK);
        if !is_member || self.heads_left < taken + HEAD_COST {
            return Ok(0);
        }
        self.heads_left -= taken + HEAD_COST;
        let mut head = vec![0; taken];
        self.plain.read_exact(&mut head)?;
        self.heads.insert(at, head.into());
        Ok(size)
    }

    fn keep_state(&mut self) {
        let Plain { decoder, at } = &self.plain;
        let last = self.states.last().map_or(0, |(at, _)| *at);
        if at - last < self.apart {
            return;
        }
        if let Some(state) = decoder.try_clone() {
            self.states.push((*at, state));
        }
        if self.states.len() > KEPT {
            // Every other one goes.
            let mut odd = false;
            self.states.retain(|_| {
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
    use crate::store::files::Body;
    use crate::store::samples::{Parts, Scratch, gzip, layer, letters, read, tree, zstd};
    use crate::store::{Image, Source};
    use crate::workers::Workers;

    /// An image of `count` layers that are large enough for states to be kept between them.
    fn image(count: usize, size: usize) -> Parts {
        let mut parts = Parts::default();
        let texts: Vec<String> = (1..=count as u64).map(|seed| letters(seed, size)).collect();
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
    fn one_zstd_decoder_goes_from_member_to_member() {
        let mut parts = Parts::default();
        for at in 0..4_u8 {
            parts.file(&at.to_string(), vec![at; SMALL as usize + 1]);
        }
        parts.file("small", "bytes");
        let scratch = Scratch::new();
        let path = scratch.path().join("packed");
        std::fs::write(&path, zstd(&parts.tar())).unwrap();
        let file = Span::whole(&path).unwrap();
        let (packed, names) = Packed::index(&file).unwrap().unwrap();
        let extent = |name: &str| {
            let name = crate::store::layout::named(name).unwrap();
            names.find(&name).unwrap().unwrap()
        };
        let parked = || packed.parked_at();
        assert_eq!(packed.head(extent("small")).unwrap()[..], *b"bytes");
        assert_eq!(packed.head(extent("3")).unwrap()[..], [3; HEAD as usize]);
        // One that was passed over, and then one that lies before.
        for at in ["0", "1", "3", "2", "3"] {
            let here = extent(at);
            let mut body = Body::Stream(packed.open(&file, here).unwrap(), here.size);
            assert_eq!(parked(), None, "{at} goes on where it can");
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, parts.bytes(at));
            assert_eq!(body.left(), 0);
            assert_eq!(parked(), Some(here.at + here.size));
        }
    }

    #[test]
    fn small_members_are_kept_up_to_a_limit_and_the_heads_of_others() {
        let mut parts = Parts::default();
        for at in 0..2 * HEADS_MOST / SMALL as usize {
            parts.file(&format!("{at:03}"), vec![0; SMALL as usize]);
        }
        let scratch = Scratch::new();
        let path = scratch.path().join("packed");
        std::fs::write(&path, zstd(&parts.tar())).unwrap();
        let (packed, names) = Packed::index(&Span::whole(&path).unwrap())
            .unwrap()
            .unwrap();
        for name in parts.0.keys() {
            let name = crate::store::layout::named(name).unwrap();
            let head = packed.head(names.find(&name).unwrap().unwrap());
            assert!(head.is_some_and(|head| head.len() as u64 >= HEAD), "{name}");
        }
        let kept: usize = packed
            .heads
            .values()
            .map(|head| head.len() + HEAD_COST)
            .sum();
        assert!((HEADS_MOST / 2..=HEADS_MOST).contains(&kept), "{kept}");
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
