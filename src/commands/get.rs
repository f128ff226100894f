//! `in`: fetches one digest into a directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

use super::{Call, session};
use crate::context::Context;
use crate::error::{Doing, Error, Kind, Result};
use crate::oci::config::ImageConfig;
use crate::oci::reference::{Repository, Tag};
use crate::pull;
use crate::registry::{Fetched, Image, Remote};
use crate::request::{Format, GetRequest, Metadata, Produced, Source, produced};
use crate::rootfs::Rootfs;
use crate::store::{ImageTar, LayoutWriter};

/// What a step leaves in its directory besides the image. `digest` comes last: a directory without it
/// holds no image.
const LABELS: &str = "labels.json";
const RUN_METADATA: &str = "metadata.json";
const REPOSITORY: &str = "repository";
const TAG: &str = "tag";
const DIGEST: &str = "digest";

/// What the formats other than `rootfs` make there.
const IMAGE_TAR: &str = "image.tar";
const LAYOUT: &str = "oci";

pub(super) fn run(call: &Call<'_>, dest: &Path) -> Result<String> {
    let request = GetRequest::parse(call.request)?;
    let source = &request.source;
    let report = session::report(call, source);
    let context = session::context(call, &report)?;
    let client = session::client(&context, source)?;
    let origin = session::origin(&client, source)?;
    let get = Get {
        context: &context,
        request: &request,
        repository: origin.repository(),
        dest,
    };
    let shown = match session::mirror(&client, source)? {
        Some(mirror) => match get.fetch_from(&mirror) {
            Ok(shown) => shown,
            // A destination that cannot be written to, or a digest that has no image for the
            // platform: the origin cannot help.
            Err(error) if matches!(error.kind(), Kind::Local | Kind::Config) => return Err(error),
            Err(error) => {
                session::mirror_failed(&report, error, "using the origin");
                get.fetch_from(&origin)?
            }
        },
        None => get.fetch_from(&origin)?,
    };
    let tag = get.tag();
    get.leave(&shown, tag)?;
    let mut metadata = vec![Metadata::new("repository", get.repository.written())];
    metadata.extend(tag.map(|tag| Metadata::new("tag", tag)));
    metadata.extend(shown.metadata(source));
    let version = Produced {
        tag: request.version.tag.as_deref(),
        digest: &request.digest,
    };
    Ok(produced(&version, &metadata))
}

struct Get<'g> {
    context: &'g Context<'g>,
    request: &'g GetRequest,
    /// At its own registry, whoever serves it.
    repository: &'g Repository,
    dest: &'g Path,
}

/// What is said about the image, in files and in the metadata.
#[derive(Default)]
struct Shown {
    config: Option<ImageConfig>,
    annotations: BTreeMap<String, String>,
}

impl Get<'_> {
    /// The tag of the version, or the one that the source follows.
    fn tag(&self) -> Option<&str> {
        let followed = self.request.source.tag.as_ref().map(|tag| tag.as_str());
        self.request.version.tag.as_deref().or(followed)
    }

    /// Fetches from one registry what the step asks for.
    fn fetch_from(&self, remote: &Remote<'_>) -> Result<Shown> {
        self.clear()?;
        let params = &self.request.params;
        let source = &self.request.source;
        let described = source.label_regex.is_some() || source.annotation_regex.is_some();
        if params.skip_download && !described {
            return Ok(Shown::default());
        }
        let fetched = remote.manifest(&self.request.digest)?;
        match (params.skip_download, params.format) {
            (true, _) => self.describe(remote, &fetched),
            (false, Format::Rootfs) => self.fetch_image(remote, &fetched, |image, _, config| {
                let rootfs = Rootfs::create(self.dest, self.context.report)?;
                let diff_ids = config.diff_ids();
                pull::rootfs(self.context, remote, &image.manifest, diff_ids, rootfs)
            }),
            (false, Format::Oci) => self.fetch_image(remote, &fetched, |image, config, _| {
                let path = self.dest.join(IMAGE_TAR);
                let tag = self.tag().and_then(|tag| Tag::parse(tag).ok());
                // As the user knows it, also when a mirror serves it.
                let name = tag.as_ref().map(|tag| (self.repository, tag));
                pull::image_tar(self.context, remote, image, config, &path, name)
            }),
            (false, Format::OciLayout) => {
                pull::layout(self.context, remote, &fetched, &self.dest.join(LAYOUT))?;
                match described {
                    true => self.describe(remote, &fetched),
                    false => Ok(Shown::default()),
                }
            }
        }
    }

    /// The image of one platform, with the files that `write` makes of it and of its config.
    fn fetch_image(
        &self,
        remote: &Remote<'_>,
        fetched: &Fetched,
        write: impl FnOnce(&Image, &[u8], &ImageConfig) -> Result<()>,
    ) -> Result<Shown> {
        let image = remote.image(fetched, &self.request.params.platform)?;
        if let Some(artifact) = image.manifest.artifact_type() {
            return Err(Error::config(format!(
                "{} is no image, but an artifact of type `{artifact}`",
                self.what(remote)
            ))
            .advise("fetch it with `params.format: oci-layout`"));
        }
        let (bytes, config) = remote.config(&image.manifest)?;
        self.check_platform(&config);
        write(&image, &bytes, &config).doing(|| self.what(remote))?;
        Ok(Shown::new(Some(config), fetched, &image))
    }

    /// What is said of an image whose layers are not fetched here.
    fn describe(&self, remote: &Remote<'_>, fetched: &Fetched) -> Result<Shown> {
        let params = &self.request.params;
        let image = match remote.image(fetched, &params.platform) {
            // A layout has all platforms, and needs none for itself.
            Err(error) if params.format == Format::OciLayout && error.kind() == Kind::Config => {
                self.context
                    .report
                    .warn(format!("there are no labels to show: {error}"));
                return Ok(Shown {
                    config: None,
                    annotations: fetched.document.annotations().clone(),
                });
            }
            image => image?,
        };
        let config = match image.manifest.artifact_type() {
            Some(_) => None,
            None => Some(remote.config(&image.manifest)?.1),
        };
        Ok(Shown::new(config, fetched, &image))
    }

    /// How errors name what is fetched.
    fn what(&self, remote: &Remote<'_>) -> String {
        format!("{}@{}", remote.repository(), self.request.digest)
    }

    /// An image that is no index is fetched whatever its platform is, as `docker pull` does.
    fn check_platform(&self, config: &ImageConfig) {
        let platform = config.platform();
        let wanted = &self.request.params.platform;
        if !platform.os.is_empty() && wanted.preference(&platform).is_none() {
            self.context.report.warn(format!(
                "the image is for {platform}, not for {wanted}; there is no other"
            ));
        }
    }

    /// Removes what an earlier try left, whatever its format was; files of others stay.
    fn clear(&self) -> Result<()> {
        fs::create_dir_all(self.dest).doing(|| format!("create `{}`", self.dest.display()))?;
        self.clear_files()?;
        Rootfs::remove_old(self.dest)?;
        ImageTar::remove_old(&self.dest.join(IMAGE_TAR))?;
        LayoutWriter::remove_old(&self.dest.join(LAYOUT))
    }

    /// Removes the files beside the image, those first without which it is none.
    fn clear_files(&self) -> Result<()> {
        for name in [DIGEST, RUN_METADATA, LABELS, TAG, REPOSITORY] {
            for path in [self.dest.join(name), self.unfinished(name)] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).doing(|| format!("remove `{}`", path.display()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Writes the files beside the image: all of them or, as far as possible, none.
    fn leave(&self, shown: &Shown, tag: Option<&str>) -> Result<()> {
        self.write_files(shown, tag).inspect_err(|_| {
            // The step has failed already, and says why.
            let _ = self.clear_files();
        })
    }

    fn write_files(&self, shown: &Shown, tag: Option<&str>) -> Result<()> {
        let params = &self.request.params;
        let config = shown.config.as_ref().filter(|_| !params.skip_download);
        // 1. what describes the image
        if let Some(config) = config
            && params.format != Format::OciLayout
        {
            self.write(LABELS, &to_json(config.labels())?)?;
        }
        self.write(REPOSITORY, self.repository.written())?;
        self.write(TAG, tag.unwrap_or_default())?;
        // 2. what Concourse runs it by: whoever finds this finds a whole rootfs
        if let Some(config) = config
            && params.format == Format::Rootfs
        {
            self.write(RUN_METADATA, &to_json(&config.run_metadata())?)?;
        }
        // 3. what says that the step was done
        self.write(DIGEST, &self.request.digest.to_string())
    }

    /// A file has its name when it is whole.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (unfinished, path) = (self.unfinished(name), self.dest.join(name));
        let mut options = fs::OpenOptions::new();
        // The umask may be 0 by now: modes of a rootfs come from its image.
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&unfinished);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&unfinished, &path))
            .doing(|| format!("write `{}`", path.display()))
    }

    fn unfinished(&self, name: &str) -> PathBuf {
        self.dest.join(format!(".{name}.partial"))
    }
}

impl Shown {
    /// With the annotations of the index, if it comes from one, and of the image, which win.
    fn new(config: Option<ImageConfig>, fetched: &Fetched, image: &Image) -> Self {
        let mut annotations = fetched.document.annotations().clone();
        annotations.extend(image.manifest.annotations.clone());
        Shown {
            config,
            annotations,
        }
    }

    /// The labels and annotations that the source asks for, each sorted by key.
    fn metadata(&self, source: &Source) -> Vec<Metadata> {
        let labels = self.config.as_ref().map(ImageConfig::labels);
        let matching = |regex: &Option<Regex>, pairs: Option<&BTreeMap<String, String>>| {
            let Some((regex, pairs)) = regex.as_ref().zip(pairs) else {
                return Vec::new();
            };
            let pairs = pairs.iter().filter(|(key, _)| regex.is_match(key));
            pairs
                .map(|(key, value)| Metadata::new(key, value))
                .collect()
        };
        let mut metadata = matching(&source.label_regex, labels);
        metadata.extend(matching(&source.annotation_regex, Some(&self.annotations)));
        metadata
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::local(error.to_string()))
}
