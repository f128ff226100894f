//! Tars built in memory, with headers that no tool would write where a test needs them.

/// A tar, entry by entry.
#[derive(Clone)]
pub(crate) struct Layer(pub(crate) Vec<u8>);

pub(crate) fn layer() -> Layer {
    Layer(Vec::new())
}

/// One entry; what is not said is ordinary.
#[derive(Clone, Debug)]
pub(crate) struct Spec<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: u64,
    pub(crate) link: &'a [u8],
    pub(crate) data: &'a [u8],
    pub(crate) pax: &'a [(&'a str, &'a [u8])],
}

impl Default for Spec<'_> {
    fn default() -> Self {
        Spec {
            name: b"",
            kind: b'0',
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_000,
            link: b"",
            data: b"",
            pax: &[],
        }
    }
}

impl Layer {
    pub(crate) fn spec(mut self, spec: Spec<'_>) -> Self {
        let mut pax: Vec<(&str, &[u8])> = spec.pax.to_vec();
        if spec.name.len() > 100 {
            pax.push(("path", spec.name));
        }
        if spec.link.len() > 100 {
            pax.push(("linkpath", spec.link));
        }
        if !pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in pax {
                let rest = key.len() + value.len() + 3;
                let length = (1..)
                    .map(|digits| rest + digits)
                    .find(|length| length.to_string().len() + rest == *length)
                    .unwrap();
                records.extend_from_slice(format!("{length} {key}=").as_bytes());
                records.extend_from_slice(value);
                records.push(b'\n');
            }
            self = self.block(b'x', b"pax", b"", &records, |_| {});
        }
        let cut = |text: &[u8]| text.get(..100).unwrap_or(text).to_vec();
        self.block(
            spec.kind,
            &cut(spec.name),
            &cut(spec.link),
            spec.data,
            |header| {
                header.set_mode(spec.mode);
                header.set_uid(spec.owner.0.into());
                header.set_gid(spec.owner.1.into());
                header.set_mtime(spec.mtime);
            },
        )
    }

    /// One header and its data; `set` has the last word on the header but its checksum.
    pub(crate) fn block(
        mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        data: &[u8],
        set: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        set(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.spec(Spec {
            name: name.as_bytes(),
            data: data.as_bytes(),
            ..Spec::default()
        })
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.spec(Spec {
            name: name.as_bytes(),
            kind: b'5',
            mode: 0o755,
            ..Spec::default()
        })
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.linked(b'2', name, target)
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.linked(b'1', name, target)
    }

    pub(crate) fn linked(self, kind: u8, name: &str, target: &str) -> Self {
        self.spec(Spec {
            name: name.as_bytes(),
            kind,
            link: target.as_bytes(),
            ..Spec::default()
        })
    }

    pub(crate) fn kind(self, kind: u8, name: &str) -> Self {
        self.spec(Spec {
            name: name.as_bytes(),
            kind,
            ..Spec::default()
        })
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers = self.0.chunks(512);
        for header in headers.filter(|block| &block[257..262] == b"ustar") {
            let name = header[..100].split(|byte| *byte == 0).next().unwrap();
            let link = header[157..257].split(|byte| *byte == 0).next().unwrap();
            let (name, link) = (name.escape_ascii(), link.escape_ascii());
            write!(f, "{}:{name}>{link} ", char::from(header[156]))?;
        }
        f.write_str("| ")
    }
}
