//! gzip (RFC 1952) around miniz_oxide: several members, headers, CRC32 and sizes.
//!
//! The window and the output are one circular buffer, so that what is inflated is written to disk
//! from where it was made.

use std::io::{self, Read};

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use super::decode::Input;
use crate::error::Error;

/// Power of two, as a circular window must be, and at least twice deflate's 32 KiB, so that what
/// was handed out last is never overwritten by less than a whole turn. 256 KiB is where larger
/// blocks stop being faster.
const BUFFER: usize = 256 * 1024;

const FLAG_HEADER_CRC: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const FLAGS_RESERVED: u8 = 0b1110_0000;

#[derive(Clone)]
pub(super) struct Inflate {
    state: State,
    engine: Box<DecompressorOxide>,
    /// The engine said that it can go on only with more bytes.
    hungry: bool,
    buffer: Box<[u8]>,
    /// Where the next byte goes.
    end: usize,
    crc: crc32fast::Hasher,
    /// Plain bytes of this member, modulo 2³², as its trailer counts.
    size: u32,
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
    pub(super) fn new() -> Self {
        Inflate {
            state: State::FirstMember,
            engine: Box::default(),
            hungry: true,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            end: 0,
            crc: crc32fast::Hasher::new(),
            size: 0,
        }
    }

    pub(super) fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// Inflates some more; the range of the buffer that is new, empty at the end of the stream.
    /// Everything handed out before must have been used.
    pub(super) fn more<R: Read>(
        &mut self,
        input: &mut Input<R>,
    ) -> io::Result<std::ops::Range<usize>> {
        loop {
            match self.state {
                State::FirstMember => {
                    self.header(input)?;
                    self.state = State::Body;
                }
                State::Body => {
                    let made = self.body(input)?;
                    if !made.is_empty() {
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
                State::End => return Ok(0..0),
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
        self.engine.init();
        self.hungry = true;
        self.crc = crc32fast::Hasher::new();
        self.size = 0;
        Ok(())
    }

    fn body<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<std::ops::Range<usize>> {
        let chunk = input.fill()?;
        if chunk.is_empty() && self.hungry {
            return Err(cut_off());
        }
        let start = self.end % BUFFER;
        let (status, used, made) = decompress(
            &mut self.engine,
            chunk,
            &mut self.buffer,
            start,
            inflate_flags::TINFL_FLAG_HAS_MORE_INPUT | inflate_flags::TINFL_FLAG_IGNORE_ADLER32,
        );
        input.consume(used);
        self.end = start + made;
        let new = self.buffer.get(start..self.end).unwrap_or_default();
        self.crc.update(new);
        self.size = self.size.wrapping_add(made as u32);
        match status {
            TINFLStatus::Done => self.state = State::Trailer,
            TINFLStatus::NeedsMoreInput => self.hungry = true,
            TINFLStatus::HasMoreOutput => self.hungry = false,
            _ => return Err(broken("its compressed data makes no sense")),
        }
        Ok(start..self.end)
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
