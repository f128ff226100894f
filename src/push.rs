//! The push schedule: blobs in parallel, then manifests, children first, then tags; and the proof
//! that all of it can be read.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use crate::archive::gzip;
use crate::context::Context;
use crate::error::{Doing, Error, Result};
use crate::oci::config::ImageConfig;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Checked, Digest, Hashed};
use crate::oci::reference::{Reference, Tag};
use crate::registry::{Remote, SendBytes};
use crate::report::Progress;
use crate::retry::Patience;
use crate::store::{self, Image, Layer, Loose, Stored, Tree};
use crate::workers::Workers;

/// Registries are eventually consistent: a tag that was just put may not be readable at once.
const READ_BACK: Duration = Duration::from_secs(60);

const READ_BACK_PAUSE: Duration = Duration::from_secs(1);

/// Pushes the image under its digest and all `tags`, and waits until they can be read. Gives back
/// the manifest or index that the tags point to.
///
/// Nothing is tagged before everything it refers to is there; a tag that points to the image
/// already costs no PUT.
///
/// # Errors
/// Bytes on disk that are not what they should be; the registry's refusals. No tag has moved then,
/// unless the message names one.
pub(crate) fn push(
    context: &Context<'_>,
    remote: &Remote<'_>,
    source: &store::Source,
    tags: &[Tag],
) -> Result<Stored> {
    let push = Push {
        context,
        remote,
        source,
        compressors: compressors(context.workers, source),
    };
    let root = match source.image() {
        Image::Tree(tree) => push.tree(tree)?,
        Image::Loose(loose) => push.loose(loose, tags)?,
    };
    let mut moved = Vec::new();
    for tag in tags {
        match push.tag(tag, &root) {
            Ok(true) => moved.push(format!("`{tag}`")),
            Ok(false) => {}
            Err(error) if moved.is_empty() => return Err(error),
            Err(error) => {
                let moved = moved.join(", ");
                return Err(error.noting(format!("pushed before that: {moved}")));
            }
        }
    }
    push.read_back(&root, tags)?;
    Ok(root)
}

struct Push<'p, 'a> {
    context: &'p Context<'p>,
    remote: &'p Remote<'a>,
    source: &'p store::Source,
    /// Threads that compress one layer.
    compressors: Workers,
}

/// Layers are compressed side by side; where there are few of them, each gets more of the workers.
fn compressors(workers: Workers, source: &store::Source) -> Workers {
    let plain = match source.image() {
        Image::Tree(_) => 0,
        Image::Loose(loose) => {
            let layers = loose.layers.iter();
            layers
                .filter(|layer| matches!(layer, Layer::Plain { .. }))
                .count()
        }
    };
    // Workers are twice the processors; a compressor waits for nothing but a processor.
    let most = workers.count().div_ceil(2);
    let at_once = plain.min(source.readers(workers).count());
    Workers::new(most / at_once.clamp(1, most))
}

impl Push<'_, '_> {
    fn tree(&self, tree: &Tree) -> Result<Stored> {
        let blobs: Vec<Blob> = tree.blobs().cloned().map(Blob::Ready).collect();
        self.blobs(&blobs)?;
        for stored in &tree.documents {
            self.document(stored)?;
        }
        tree.root().cloned()
    }

    /// Puts a manifest or an index under its digest, unless it is there.
    fn document(&self, stored: &Stored) -> Result<()> {
        let reference = Reference::Digest(&stored.descriptor.digest);
        match self.remote.digest_of(reference)? {
            Some(_) => Ok(()),
            None => {
                self.remote
                    .put_manifest(reference, &stored.bytes, &stored.descriptor.media_type)
            }
        }
    }

    /// Lets a tag point to the image; whether it did not before.
    fn tag(&self, tag: &Tag, root: &Stored) -> Result<bool> {
        let (remote, report) = (self.remote, self.context.report);
        let reference = Reference::Tag(tag);
        if remote
            .digest_of(reference)?
            .is_some_and(|found| is_root(&found, root))
        {
            report.info(format!("{tag} is there already"));
            return Ok(false);
        }
        remote.put_manifest(reference, &root.bytes, &root.descriptor.media_type)?;
        report.info(format!("pushed {tag}"));
        Ok(true)
    }

    /// An image that has no manifest yet: it is made of what its layers turn out to be.
    fn loose(&self, loose: &Loose, tags: &[Tag]) -> Result<Stored> {
        let known = match loose
            .layers
            .iter()
            .any(|layer| matches!(layer, Layer::Plain { .. }))
        {
            true => self.known_layers(loose, tags),
            false => HashMap::new(),
        };
        let mut blobs = vec![Blob::Config(loose)];
        for layer in &loose.layers {
            let blob = match layer {
                Layer::Ready(descriptor) => Blob::Ready(descriptor.clone()),
                Layer::Plain { diff_id, size } => match known.get(diff_id) {
                    Some(descriptor) => Blob::There(descriptor.clone()),
                    None => Blob::Plain {
                        loose,
                        diff_id: diff_id.clone(),
                        size: *size,
                    },
                },
                Layer::Foreign(descriptor) => Blob::There(descriptor.clone()),
            };
            blobs.push(blob);
        }
        // A layer that is listed twice is sent once.
        let mut once: Vec<Blob> = Vec::new();
        for blob in &blobs {
            if !once.iter().any(|sent| sent.name() == blob.name()) {
                once.push(blob.clone());
            }
        }
        let pushed = self.blobs(&once)?;
        let pushed: HashMap<&Digest, &Descriptor> =
            once.iter().map(Blob::name).zip(&pushed).collect();
        let layers = blobs
            .iter()
            .map(|blob| {
                let found = pushed.get(blob.name()).copied().cloned();
                found.ok_or_else(|| Error::local(format!("{} was not pushed", blob.name())))
            })
            .skip(1)
            .collect::<Result<Vec<_>>>()?;
        let stored = loose.manifest(&layers)?;
        self.document(&stored)?;
        Ok(stored)
    }

    /// Compressed forms, by diff_id, of the layers that the image under one of `tags` has: a
    /// rebuild sends only what changed. Nothing here fails the push.
    fn known_layers(&self, loose: &Loose, tags: &[Tag]) -> HashMap<Digest, Descriptor> {
        let mut known = HashMap::new();
        for tag in tags {
            match self.layers_under(loose, tag) {
                Ok(layers) => known.extend(layers),
                Err(error) => self
                    .context
                    .report
                    .debug(|| format!("{error}; its layers are not reused")),
            }
        }
        known
    }

    fn layers_under(&self, loose: &Loose, tag: &Tag) -> Result<Vec<(Digest, Descriptor)>> {
        let Some(fetched) = self.remote.tagged_manifest(tag)? else {
            return Ok(Vec::new());
        };
        let platform = ImageConfig::parse(&loose.config)?.platform();
        let image = self.remote.image(&fetched, &platform)?;
        let (_, config) = self.remote.config(&image.manifest)?;
        let layers = config.diff_ids().iter().cloned().zip(image.manifest.layers);
        let wanted = |diff_id: &Digest| {
            let mut layers = loose.layers.iter();
            layers.any(
                |layer| matches!(layer, Layer::Plain { diff_id: plain, .. } if plain == diff_id),
            )
        };
        let mut usable = Vec::new();
        for (diff_id, descriptor) in layers {
            let gzip = descriptor.media_type.ends_with("gzip");
            let Descriptor { digest, size, .. } = &descriptor;
            if wanted(&diff_id) && gzip && self.remote.has_blob(&descriptor)? {
                let known = loose.compressed(digest.clone(), *size);
                usable.push((diff_id, known));
            }
        }
        Ok(usable)
    }

    /// Sends what the repository does not have; `result[i]` is what `blobs[i]` is there.
    fn blobs(&self, blobs: &[Blob]) -> Result<Vec<Descriptor>> {
        let report = self.context.report;
        let bars = blobs.iter().map(|blob| (blob.label(), blob.size()));
        let progress = report.progress(bars);
        let workers = self.source.readers(self.context.workers);
        // The largest first: the others fill the time that it takes.
        let order = |blob: &Blob| (self.source.read_order(blob.name()), Reverse(blob.size()));
        let mut jobs: Vec<(usize, &Blob)> = blobs.iter().enumerate().collect();
        jobs.sort_by_key(|(_, blob)| order(blob));
        let stop = self.remote.stop();
        let mut pushed = workers.map_until(stop, &jobs, |(at, blob), _| {
            let descriptor = self
                .blob(blob, *at, &progress)
                .doing(|| format!("push {}", blob.label()))?;
            Ok((*at, descriptor))
        })?;
        progress.finish("pushed");
        pushed.sort_by_key(|(at, _)| *at);
        Ok(pushed
            .into_iter()
            .map(|(_, descriptor)| descriptor)
            .collect())
    }

    fn blob(&self, blob: &Blob, at: usize, progress: &Progress<'_>) -> Result<Descriptor> {
        match blob {
            Blob::There(descriptor) => {
                progress.was_there(at);
                Ok(descriptor.clone())
            }
            Blob::Config(loose) => {
                let descriptor = &loose.config_descriptor;
                self.unless_there(descriptor, at, progress, || {
                    let bytes = loose.config.as_slice();
                    Ok(Checked::new(
                        bytes,
                        &descriptor.digest,
                        Some(descriptor.size),
                    ))
                })
            }
            Blob::Ready(descriptor) => self.unless_there(descriptor, at, progress, || {
                self.source.open(&descriptor.digest)
            }),
            Blob::Plain { loose, diff_id, .. } => {
                let (digest, size) = self.remote.upload(|send| {
                    progress.restart(at);
                    self.compress(diff_id, at, progress, send)
                })?;
                Ok(loose.compressed(digest, size))
            }
        }
    }

    /// Sends a plain layer as gzip: it is read, compared with its diff_id, compressed, hashed and
    /// sent in one pass.
    fn compress(
        &self,
        diff_id: &Digest,
        at: usize,
        progress: &Progress<'_>,
        send: &mut SendBytes<'_>,
    ) -> Result<(Digest, u64)> {
        let plain = progress.counting(at, self.source.open(diff_id)?);
        let (sent, plain) = gzip::compress(plain, self.compressors, |packed| {
            let mut hashed = Hashed::new(packed);
            send(&mut hashed, None)?;
            Ok(hashed.finish())
        })?;
        plain
            .into_inner()
            .finish()
            .doing(|| self.source.show(diff_id))?;
        Ok(sent)
    }

    fn unless_there<R: Read>(
        &self,
        descriptor: &Descriptor,
        at: usize,
        progress: &Progress<'_>,
        open: impl Fn() -> Result<Checked<R>>,
    ) -> Result<Descriptor> {
        if self.remote.has_blob(descriptor)? {
            progress.was_there(at);
            return Ok(descriptor.clone());
        }
        let repository = self.remote.repository();
        for from in descriptor.known_in(repository.host()) {
            if from != repository.name() && self.remote.mount(descriptor, from)? {
                progress.was_there(at);
                return Ok(descriptor.clone());
            }
        }
        self.remote.upload(|send| {
            progress.restart(at);
            let mut bytes = open()?;
            let mut counted = progress.counting(at, &mut bytes);
            send(&mut counted, Some(descriptor.size))?;
            let proof = bytes
                .finish()
                .doing(|| self.source.show(&descriptor.digest))?;
            Ok((proof.digest().clone(), proof.size()))
        })?;
        Ok(descriptor.clone())
    }

    /// Waits until the digest and every tag can be read: the `get` that follows a `put` must find
    /// them.
    fn read_back(&self, root: &Stored, tags: &[Tag]) -> Result<()> {
        self.remote.set_patience(Patience::READ_BACK);
        let started = self.context.clock.elapsed();
        let references = [Reference::Digest(&root.descriptor.digest)]
            .into_iter()
            .chain(tags.iter().map(Reference::Tag));
        for reference in references {
            let but = |what: String| {
                let repository = self.remote.repository();
                format!("{repository}: {reference} was pushed, but {what}")
            };
            loop {
                let found = self.remote.digest_of(reference);
                let found = found.doing(|| but("cannot be read".to_owned()))?;
                if found.as_ref().is_some_and(|found| is_root(found, root)) {
                    break;
                }
                let waited = self.context.clock.elapsed().saturating_sub(started);
                if waited + READ_BACK_PAUSE > READ_BACK {
                    let after = format!("after {} s", READ_BACK.as_secs());
                    return Err(match found {
                        Some(other) => Error::registry(but(format!("points to {other} {after}")))
                            .advise("see whether somebody else pushes the same tag"),
                        None => Error::registry(but(format!("cannot be read {after}")))
                            .advise("the registry may need longer: run the step again"),
                    });
                }
                self.context.clock.sleep(READ_BACK_PAUSE);
            }
        }
        Ok(())
    }
}

/// Whether a registry that says this digest has the root: it may prefer another algorithm.
fn is_root(found: &Digest, root: &Stored) -> bool {
    *found == root.descriptor.digest || found.check(&root.bytes).is_ok()
}

/// One blob of the image that is pushed.
#[derive(Clone)]
enum Blob<'l> {
    Config(&'l Loose),
    /// Pushed as it is on disk.
    Ready(Descriptor),
    /// A plain layer: compressed on its way.
    Plain {
        loose: &'l Loose,
        diff_id: Digest,
        size: u64,
    },
    /// Known to be at the registry, or (a foreign layer) not meant to be.
    There(Descriptor),
}

impl Blob<'_> {
    /// The digest that it has on disk.
    fn name(&self) -> &Digest {
        match self {
            Blob::Config(loose) => &loose.config_descriptor.digest,
            Blob::Ready(descriptor) | Blob::There(descriptor) => &descriptor.digest,
            Blob::Plain { diff_id, .. } => diff_id,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Blob::Config(loose) => loose.config_descriptor.size,
            Blob::Ready(descriptor) | Blob::There(descriptor) => descriptor.size,
            Blob::Plain { size, .. } => *size,
        }
    }

    fn label(&self) -> String {
        self.name().short()
    }
}
