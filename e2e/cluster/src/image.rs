//! Images without a registry: an OCI layout in one archive, assembled from files and root file systems, as `ctr images import`
//! reads it (OCI image specification 1.1; the name travels in containerd's own annotation).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Layers of tests stay as they are: packing them would cost more than the disk that it saves.
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const PACKED_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// All times in an image, so that the same content has the same digest.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// Files are hashed and copied in pieces of this size.
const PIECE: usize = 1 << 20;

/// A file of a layer.
#[derive(Clone, Debug)]
pub struct Entry {
    path: String,
    mode: u32,
    content: Vec<u8>,
}

impl Entry {
    /// A file that everybody may read.
    #[must_use]
    pub fn file(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o644, content: content.into() }
    }

    /// A file that everybody may run, from this machine's `program`.
    ///
    /// # Errors
    /// When the program cannot be read.
    pub fn program(path: &str, program: &Path) -> Result<Self> {
        let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        Ok(Self { path: path.into(), mode: 0o755, content })
    }
}

/// One layer: an archive in memory, or one on disk.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A tar archive.
    Bytes(Vec<u8>),
    /// The path of a tar archive, such as a root file system.
    File(PathBuf),
}

impl Layer {
    /// A layer of these files; folders above them are made by whoever unpacks it.
    ///
    /// # Errors
    /// When a path is too long for an archive.
    pub fn of(entries: impl IntoIterator<Item = Entry>) -> Result<Self> {
        let mut archive = tar::Builder::new(Vec::new());
        for entry in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_size(entry.content.len() as u64);
            let path = entry.path.trim_start_matches('/');
            archive.append_data(&mut header, path, entry.content.as_slice()).with_context(|| format!("cannot add {}", entry.path))?;
        }
        Ok(Self::Bytes(archive.into_inner()?))
    }

    fn reader(&self) -> Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(bytes.as_slice()),
            Self::File(path) => Box::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?),
        })
    }
}

/// An image and what its containers run by default.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    layers: Vec<Layer>,
    entrypoint: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<String>,
    user: String,
    packed: bool,
}

impl Image {
    /// An image by this name, with its tag; pods name it the same way.
    #[must_use]
    pub fn new(name: &str, layer: Layer) -> Self {
        let (entrypoint, arguments, environment) = Default::default();
        Self { name: name.into(), layers: vec![layer], entrypoint, arguments, environment, user: String::new(), packed: false }
    }

    /// One more layer, over those before.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// What a container runs unless the pod has a `command`.
    #[must_use]
    pub fn entrypoint<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.entrypoint = words.into_iter().map(str::to_owned).collect();
        self
    }

    /// What follows it unless the pod has `args`.
    #[must_use]
    pub fn arguments<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments = words.into_iter().map(str::to_owned).collect();
        self
    }

    /// A variable that its containers have.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// The user that it runs as, `UID` or `UID:GID`; root unless this is said.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Its layers are packed, as registries hold and nodes fetch them.
    #[must_use]
    pub fn packed(mut self) -> Self {
        self.packed = true;
        self
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When a layer cannot be read or the archive cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let mut archive = Archive(tar::Builder::new(file));
        archive.small("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        let layers = self.layers.iter().map(|layer| archive.layer(layer, self.packed)).collect::<Result<Vec<_>>>()?;
        let (layers, digests): (Vec<Value>, Vec<Value>) = layers.into_iter().unzip();
        let config = archive.blob(CONFIG_TYPE, &self.config(&digests))?;
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers});
        let mut manifest = archive.blob(MANIFEST_TYPE, &manifest)?;
        manifest["annotations"] = json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": self.tag()});
        archive.small("index.json", &json!({"schemaVersion": 2, "manifests": [manifest]}))?;
        archive.0.into_inner()?.sync_data().with_context(|| format!("cannot write {}", path.display()))
    }

    fn tag(&self) -> &str {
        self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag)
    }

    fn config(&self, digests: &[Value]) -> Value {
        json!({
            "created": CREATED,
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.arguments, "Env": self.environment, "User": self.user},
            "rootfs": {"type": "layers", "diff_ids": digests},
        })
    }
}

/// The name that Go, and with it every image, has for this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

struct Archive(tar::Builder<File>);

impl Archive {
    fn append(&mut self, path: &str, size: u64, content: impl Read) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(size);
        self.0.append_data(&mut header, path, content).with_context(|| format!("cannot add {path}"))
    }

    fn small(&mut self, path: &str, value: &Value) -> Result<()> {
        let text = value.to_string();
        self.append(path, text.len() as u64, text.as_bytes())
    }

    fn blob(&mut self, kind: &str, value: &Value) -> Result<Value> {
        self.add(kind, || Ok(io::Cursor::new(value.to_string())))
    }

    /// Its descriptor, and the digest of what is in it.
    fn layer(&mut self, layer: &Layer, packed: bool) -> Result<(Value, Value)> {
        if !packed {
            let descriptor = self.add(LAYER_TYPE, || layer.reader())?;
            let digest = descriptor["digest"].clone();
            return Ok((descriptor, digest));
        }
        let mut content = Vec::new();
        layer.reader()?.read_to_end(&mut content)?;
        let digest = json!(format!("sha256:{}", hex::encode(Sha256::digest(&content))));
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(&content)?;
        let packed = packer.finish()?;
        Ok((self.add(PACKED_TYPE, || Ok(packed.as_slice()))?, digest))
    }

    /// Adds content under its digest, and returns its descriptor. It is read twice, since its digest is its name.
    fn add<R: Read>(&mut self, kind: &str, open: impl Fn() -> Result<R>) -> Result<Value> {
        let mut hash = Hashing(Sha256::new());
        let size = io::copy(&mut io::BufReader::with_capacity(PIECE, open()?), &mut hash)?;
        let digest = hex::encode(hash.0.finalize());
        self.append(&format!("blobs/sha256/{digest}"), size, open()?)?;
        Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size}))
    }
}

struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let read = |entry: io::Result<tar::Entry<'_, File>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let content = &files[&format!("blobs/sha256/{digest}")];
        assert_eq!(hex::encode(Sha256::digest(content)), digest);
        assert_eq!(descriptor["size"], content.len());
        content
    }

    #[test]
    fn every_descriptor_leads_to_its_content() {
        check(|image| image, <[u8]>::to_vec);
        check(Image::packed, |packed| {
            let mut content = Vec::new();
            flate2::read::GzDecoder::new(packed).read_to_end(&mut content).unwrap();
            content
        });
    }

    fn check(as_it_is: impl Fn(Image) -> Image, content_of: impl Fn(&[u8]) -> Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let image = || {
            let base = Layer::of([Entry::file("/etc/name", "base")]).unwrap();
            let over = Layer::of([Entry::file("/etc/name", "over")]).unwrap();
            let image = Image::new("kybernis.test/a:1", base).layer(over).entrypoint(["/a"]).arguments(["b"]).variable("C", "d").user("7");
            as_it_is(image)
        };
        let path = folder.path().join("image.tar");
        image().write(&path).unwrap();
        let files = files(&path);
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files["index.json"]);
        let entry = &index["manifests"][0];
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "kybernis.test/a:1");
        let manifest = json(blob(&files, entry));
        let config = json(blob(&files, &manifest["config"]));
        assert_eq!(config["config"], json!({"Entrypoint": ["/a"], "Cmd": ["b"], "Env": ["C=d"], "User": "7"}));
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        for (layer, digest) in layers.iter().zip(config["rootfs"]["diff_ids"].as_array().unwrap()) {
            let content = content_of(blob(&files, layer));
            assert_eq!(*digest, format!("sha256:{}", hex::encode(Sha256::digest(content))));
        }
        let again = folder.path().join("again.tar");
        image().write(&again).unwrap();
        assert_eq!(fs::read(path).unwrap(), fs::read(again).unwrap(), "the same content makes the same archive");
    }
}
