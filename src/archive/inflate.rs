//! gzip (RFC 1952) around an inflater: several members, headers, CRC32 and sizes.
//!
//! What is inflated is written to disk from the buffer where it was made.

use std::io::{self, Read};

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use zlib_rs::{InflateFlush, Status};

use super::input::Input;
use crate::error::Error;

/// Deflate's window, 32 KiB (RFC 1951).
const WINDOW_BITS: u8 = 15;

const FLAG_HEADER_CRC: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const FLAGS_RESERVED: u8 = 0b1110_0000;

pub(super) struct Inflate {
    state: State,
    engine: Engine,
    /// The engine can go on only with more bytes.
    hungry: bool,
    crc: crc32fast::Hasher,
    /// Plain bytes of this member, modulo 2³², as its trailer counts.
    size: u32,
}

/// What undoes deflate. The second takes half as long again, but its state can be copied.
enum Engine {
    ZlibRs(Box<zlib_rs::Inflate>),
    Miniz(Box<DecompressorOxide>),
}

/// What an engine did: bytes used, bytes made, whether the deflate stream is at its end.
struct Step {
    used: usize,
    made: usize,
    done: bool,
}

impl Engine {
    fn reset(&mut self) {
        match self {
            Engine::ZlibRs(inflate) => inflate.reset(false),
            Engine::Miniz(inflate) => inflate.init(),
        }
    }

    /// Inflates `input` into `buffer` from `start` on; `None` where it makes no sense.
    fn step(&mut self, input: &[u8], buffer: &mut [u8], start: usize) -> Option<Step> {
        match self {
            Engine::ZlibRs(inflate) => {
                let (used, made) = (inflate.total_in(), inflate.total_out());
                let room = buffer.get_mut(start..).unwrap_or_default();
                let status = inflate
                    .decompress(input, room, InflateFlush::NoFlush)
                    .ok()?;
                Some(Step {
                    used: (inflate.total_in() - used) as usize,
                    made: (inflate.total_out() - made) as usize,
                    done: status == Status::StreamEnd,
                })
            }
            Engine::Miniz(inflate) => {
                let flags = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT
                    | inflate_flags::TINFL_FLAG_IGNORE_ADLER32;
                let (status, used, made) = decompress(inflate, input, buffer, start, flags);
                match status {
                    TINFLStatus::Done
                    | TINFLStatus::NeedsMoreInput
                    | TINFLStatus::HasMoreOutput => Some(Step {
                        used,
                        made,
                        done: status == TINFLStatus::Done,
                    }),
                    _ => None,
                }
            }
        }
    }
}

#[derive(Clone)]
enum State {
    FirstMember,
    Body,
    Trailer,
    BetweenMembers,
    End,
}

impl Inflate {
    /// The faster one.
    pub(super) fn new() -> Self {
        let inflate = zlib_rs::Inflate::new(false, WINDOW_BITS);
        Inflate::with(Engine::ZlibRs(Box::new(inflate)))
    }

    /// One whose state can be copied.
    pub(super) fn copyable() -> Self {
        Inflate::with(Engine::Miniz(Box::default()))
    }

    pub(super) fn try_clone(&self) -> Option<Self> {
        let Engine::Miniz(engine) = &self.engine else {
            return None;
        };
        Some(Inflate {
            state: self.state.clone(),
            engine: Engine::Miniz(engine.clone()),
            hungry: self.hungry,
            crc: self.crc.clone(),
            size: self.size,
        })
    }

    fn with(engine: Engine) -> Self {
        Inflate {
            state: State::FirstMember,
            engine,
            hungry: true,
            crc: crc32fast::Hasher::new(),
            size: 0,
        }
    }

    /// Whether it looks back at what it made in the buffer that it was given: that must be the same
    /// one each time, circular and of a power of two of bytes.
    pub(super) fn needs_its_buffer(&self) -> bool {
        matches!(self.engine, Engine::Miniz(_))
    }

    /// Inflates some more into `buffer` from `start` on; the number of bytes, 0 at the end of the
    /// stream.
    pub(super) fn more<R: Read>(
        &mut self,
        input: &mut Input<R>,
        buffer: &mut [u8],
        start: usize,
    ) -> io::Result<usize> {
        loop {
            match self.state {
                State::FirstMember => {
                    self.header(input)?;
                    self.state = State::Body;
                }
                State::Body => {
                    let made = self.body(input, buffer, start)?;
                    if made > 0 {
                        return Ok(made);
                    }
                }
                State::Trailer => {
                    self.trailer(input)?;
                    self.state = State::BetweenMembers;
                }
                State::BetweenMembers => match input.peek()? {
                    None => self.state = State::End,
                    // gzip(1) takes zeros after the last member for the padding of a tape; what is
                    // neither that nor a member, it and Go's reader do not take for gzip.
                    Some(0) => {
                        while let Some(byte) = input.byte()? {
                            if byte != 0 {
                                return Err(broken("there is something else after its end"));
                            }
                        }
                        self.state = State::End;
                    }
                    Some(_) => self.state = State::FirstMember,
                },
                State::End => return Ok(0),
            }
        }
    }

    fn header<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<()> {
        let mut crc = crc32fast::Hasher::new();
        let mut next = |input: &mut Input<R>| -> io::Result<u8> {
            let byte = input.byte()?.ok_or_else(cut_off)?;
            crc.update(&[byte]);
            Ok(byte)
        };
        if [next(input)?, next(input)?] != [0x1f, 0x8b] {
            return Err(broken("a member does not start with gzip's magic bytes"));
        }
        if next(input)? != 8 {
            return Err(broken("its method is not deflate"));
        }
        let flags = next(input)?;
        if flags & FLAGS_RESERVED != 0 {
            return Err(broken("its header has reserved flags"));
        }
        // Modification time, extra flags, operating system.
        for _ in 0..6 {
            next(input)?;
        }
        if flags & FLAG_EXTRA != 0 {
            let length = u16::from_le_bytes([next(input)?, next(input)?]);
            for _ in 0..length {
                next(input)?;
            }
        }
        // Nothing of these strings is kept, so their length needs no limit.
        for flag in [FLAG_NAME, FLAG_COMMENT] {
            if flags & flag != 0 {
                while next(input)? != 0 {}
            }
        }
        if flags & FLAG_HEADER_CRC != 0 {
            let [low, high, ..] = crc.finalize().to_le_bytes();
            for expected in [low, high] {
                if input.byte()?.ok_or_else(cut_off)? != expected {
                    return Err(broken("its header's checksum is wrong"));
                }
            }
        }
        self.engine.reset();
        self.hungry = true;
        self.crc = crc32fast::Hasher::new();
        self.size = 0;
        Ok(())
    }

    fn body<R: Read>(
        &mut self,
        input: &mut Input<R>,
        buffer: &mut [u8],
        start: usize,
    ) -> io::Result<usize> {
        let chunk = input.fill()?;
        if chunk.is_empty() && self.hungry {
            return Err(cut_off());
        }
        let step = self.engine.step(chunk, buffer, start);
        let step = step.ok_or_else(|| broken("its compressed data makes no sense"))?;
        input.consume(step.used);
        let end = start + step.made;
        self.crc.update(buffer.get(start..end).unwrap_or_default());
        self.size = self.size.wrapping_add(step.made as u32);
        // With room left, only the lack of bytes stopped it.
        self.hungry = end < buffer.len();
        if step.done {
            self.state = State::Trailer;
        }
        Ok(step.made)
    }

    fn trailer<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<()> {
        let mut word = || -> io::Result<u32> {
            let mut bytes = [0; 4];
            for byte in &mut bytes {
                *byte = input.byte()?.ok_or_else(cut_off)?;
            }
            Ok(u32::from_le_bytes(bytes))
        };
        let (crc, size) = (word()?, word()?);
        if crc != self.crc.clone().finalize() {
            return Err(broken("its checksum (CRC-32) is wrong"));
        }
        if size != self.size {
            return Err(broken("its size is not the one it gives itself"));
        }
        Ok(())
    }
}

#[cold]
fn broken(why: &str) -> io::Error {
    Error::hostile(format!("the gzip stream is broken: {why}")).into_io()
}

#[cold]
fn cut_off() -> io::Error {
    Error::hostile("the gzip stream ends in the middle").into_io()
}
