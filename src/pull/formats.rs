//! `oci` and `oci-layout`: blobs go to disk as the registry has them, side by side, and count once
//! they are verified.

use std::io::{self, Write as _};
use std::path::Path;

use crate::context::Context;
use crate::error::{Doing, Error, Kind, Result};
use crate::oci::descriptor::{Descriptor, Listed, each_once};
use crate::oci::digest::Checked;
use crate::oci::manifest::{DOCUMENTS_LIMIT, Document, NESTING_LIMIT, nested_too_deep};
use crate::oci::reference::{Repository, Tag};
use crate::registry::{Fetched, Image, Remote};
use crate::report::Progress;
use crate::store::{BlobWriter, ImageTar, LayoutWriter, Stored};
use crate::workers::Stop;

/// Manifests and indexes below one index, nested ones included; each costs a request.
const MOST_DOCUMENTS: usize = 20_000;

/// Bytes that are copied at a time.
const BLOCK: usize = 128 << 10;

/// Writes `image.tar`, whose image has this config and this name.
pub(crate) fn image_tar(
    context: &Context<'_>,
    remote: &Remote<'_>,
    image: &Image,
    config: &[u8],
    path: &Path,
    name: Option<(&Repository, &Tag)>,
) -> Result<()> {
    let stored = stored(&image.fetched);
    let tar = ImageTar::create(path, &stored, name)?;
    let digest = &image.manifest.config.digest;
    let mut checked = Checked::new(config, digest, None);
    let mut writer = tar.blob(digest)?;
    io::copy(&mut checked, &mut writer).doing(|| format!("write {digest}"))?;
    writer.commit(&checked.finish()?)?;
    let layers = image.manifest.layers.iter();
    let layers = each_once(layers.filter(|layer| layer.digest != *digest))?;
    fetch(context, remote, &layers, |blob| tar.blob(&blob.digest))?;
    tar.finish()
}

/// Writes an OCI layout of everything that `root` refers to, for all platforms.
pub(crate) fn layout(
    context: &Context<'_>,
    remote: &Remote<'_>,
    root: &Fetched,
    directory: &Path,
) -> Result<()> {
    let writer = LayoutWriter::create(directory)?;
    let documents = documents(context, remote, root)?;
    let blobs = documents.iter().flat_map(|fetched| {
        match &fetched.document {
            Document::Image(manifest) => [&manifest.config]
                .into_iter()
                .chain(&manifest.layers)
                .collect(),
            // What an index lists and is no document is a blob to us.
            Document::Index(index) => {
                let entries = index.manifests.iter();
                entries
                    .filter(|entry| !entry.is_document())
                    .collect::<Vec<_>>()
            }
        }
    });
    each_once(blobs)
        .and_then(|blobs| fetch(context, remote, &blobs, |blob| writer.blob(blob)))
        .doing(|| format!("{}@{}", remote.repository(), root.digest))?;
    for fetched in &documents {
        writer.document(&stored(fetched))?;
    }
    writer.finish(&stored(root))
}

/// `root` and all manifests and indexes below it.
fn documents(context: &Context<'_>, remote: &Remote<'_>, root: &Fetched) -> Result<Vec<Fetched>> {
    let mut all = vec![root.clone()];
    let mut held = root.bytes.len() as u64;
    let mut known = Listed::default();
    known.add(&Descriptor::of(root.digest.clone(), held))?;
    let mut level = 0;
    for _ in 0..=NESTING_LIMIT {
        let mut entries: Vec<Descriptor> = Vec::new();
        for fetched in all.get(level..).unwrap_or_default() {
            if let Document::Index(index) = &fetched.document {
                for entry in index.manifests.iter().filter(|entry| entry.is_document()) {
                    if known.add(entry).doing(|| remote.repository().to_string())? {
                        entries.push(entry.clone());
                    }
                }
            }
        }
        if entries.is_empty() {
            return Ok(all);
        }
        if all.len() + entries.len() > MOST_DOCUMENTS {
            return Err(Error::hostile(format!(
                "{}: the index has more than {MOST_DOCUMENTS} manifests below it",
                remote.repository()
            )));
        }
        // A child has the size that its descriptor says.
        held = entries
            .iter()
            .fold(held, |held, entry| held.saturating_add(entry.size));
        if held > DOCUMENTS_LIMIT {
            return Err(Error::hostile(format!(
                "{}: the manifests below the index have more than {DOCUMENTS_LIMIT} bytes together",
                remote.repository()
            )));
        }
        level = all.len();
        all.extend(
            context
                .workers
                .map_until(remote.stop(), &entries, |entry, _| remote.child(entry))?,
        );
    }
    Err(Error::hostile(format!(
        "{}: {}",
        remote.repository(),
        nested_too_deep()
    )))
}

/// Fetches every blob into the place that `open` makes for it.
fn fetch<'w>(
    context: &Context<'_>,
    remote: &Remote<'_>,
    blobs: &[&Descriptor],
    open: impl Fn(&Descriptor) -> Result<BlobWriter<'w>> + Sync,
) -> Result<()> {
    let bars = blobs.iter().map(|blob| (blob.digest.short(), blob.size));
    let progress = context.report.progress(bars);
    // The largest first: the others fill the time that it takes.
    let mut jobs: Vec<(usize, &Descriptor)> = blobs.iter().copied().enumerate().collect();
    jobs.sort_by_key(|(_, blob)| std::cmp::Reverse(blob.size));
    let stop = remote.new_stop();
    context
        .workers
        .map_until(&stop, &jobs, |(at, blob), others| {
            let once = || fetch_one(remote, blob, *at, &progress, open(blob)?, others.stop());
            match once() {
                // Bytes that are not the ones asked for may be a fault on the way.
                Err(error) if error.kind() == Kind::Hostile => {
                    context.report.info(format!(
                        "{}: {error}: fetching it once more",
                        blob.digest.short()
                    ));
                    progress.restart(*at);
                    once()
                }
                outcome => outcome,
            }
            .doing(|| format!("fetch {}", blob.digest))
        })?;
    progress.finish("fetched");
    Ok(())
}

fn fetch_one(
    remote: &Remote<'_>,
    blob: &Descriptor,
    at: usize,
    progress: &Progress<'_>,
    mut writer: BlobWriter<'_>,
    stop: &Stop,
) -> Result<()> {
    let blob_reader = remote.open(blob, stop)?;
    let reader = progress.counting(at, stop.watch(blob_reader));
    let mut checked = Checked::new(reader, &blob.digest, Some(blob.size));
    let mut block = vec![0; BLOCK];
    loop {
        let n = match io::Read::read(&mut checked, &mut block) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io(Kind::Network, error)),
        };
        writer
            .write_all(block.get(..n).unwrap_or_default())
            .map_err(|error| Error::io(Kind::Local, error))?;
    }
    writer.commit(&checked.finish()?)
}

/// What was fetched, as an image on disk has it.
fn stored(fetched: &Fetched) -> Stored {
    let fetched = fetched.clone();
    Stored::of(
        fetched.bytes,
        fetched.digest,
        fetched.document,
        &fetched.media_type,
    )
}
