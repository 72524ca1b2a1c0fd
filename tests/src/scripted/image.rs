//! Images for the scripted registry: manifests as real as they come, layers of bytes that compress badly and are the
//! same in every run. Nobody unpacks them; images that a runtime can run are made for the fleet.

use bytes::Bytes;
use serde_json::{Value, json};
use waylay::oci::Digest;

/// 1024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1024 × 1024 bytes.
pub const MIB: u64 = 1 << 20;

/// How an image is to look. Its bytes depend on the name it is given in a registry.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<Layer>,
    platforms: usize,
    docker: bool,
}

#[derive(Debug, Clone)]
enum Layer {
    Made(u64),
    Given(Bytes),
    Foreign(u64),
}

/// One blob or manifest of an image that was made.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The sha256 of its bytes.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// What it is.
    pub bytes: Bytes,
}

/// An image as a registry holds it.
#[derive(Debug, Clone)]
pub struct Built {
    /// The repository, as in `library/app`.
    pub repository: String,
    /// The tag, as in `1`.
    pub tag: String,
    /// What the tag names: the index when there is one, else the manifest.
    pub top: Piece,
    /// The manifests of the platforms, one if there is no index.
    pub manifests: Vec<Piece>,
    /// The configurations, one for each manifest.
    pub configs: Vec<Piece>,
    /// The layers, the same for every platform.
    pub layers: Vec<Piece>,
    /// Layers that the manifest lists with `urls` and that the registry does not have.
    pub foreign: Vec<Piece>,
}

/// An OCI image with layers of these sizes.
pub fn layers<const N: usize>(sizes: [u64; N]) -> Image {
    Image { layers: sizes.into_iter().map(Layer::Made).collect(), platforms: 0, docker: false }
}

impl Image {
    /// One more layer, with these bytes.
    pub fn layer(mut self, bytes: impl Into<Bytes>) -> Self {
        self.layers.push(Layer::Given(bytes.into()));
        self
    }

    /// One more layer that has `urls`, and that the registry does not have.
    pub fn foreign(mut self, size: u64) -> Self {
        self.layers.push(Layer::Foreign(size));
        self
    }

    /// With an index over this many platforms.
    pub fn platforms(mut self, count: usize) -> Self {
        self.platforms = count;
        self
    }

    /// With the media types of Docker's schema 2.
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// The image under a name, `repository:tag`.
    pub(super) fn build(&self, reference: &str) -> Built {
        let (repository, tag) = reference.rsplit_once(':').expect("an image is named repository:tag");
        let [index_type, manifest_type, config_type, layer_type] = if self.docker {
            [
                "application/vnd.docker.distribution.manifest.list.v2+json",
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ]
        } else {
            [
                "application/vnd.oci.image.index.v1+json",
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ]
        };
        let (mut listed, mut held, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
        for (number, layer) in self.layers.iter().enumerate() {
            let made = |size| noise(&format!("{reference} layer {number}"), size);
            let bytes = match layer {
                Layer::Made(size) | Layer::Foreign(size) => made(*size),
                Layer::Given(bytes) => bytes.clone(),
            };
            let piece = Piece::new(layer_type, bytes);
            let mut descriptor = piece.descriptor();
            if matches!(layer, Layer::Foreign(_)) {
                descriptor["urls"] = json!(["https://elsewhere.test/layer"]);
                foreign.push(piece);
            } else {
                held.push(piece);
            }
            listed.push(descriptor);
        }
        let (mut manifests, mut configs) = (Vec::new(), Vec::new());
        for architecture in ["amd64", "arm64", "riscv64", "s390x"].into_iter().take(self.platforms.max(1)) {
            let config = json!({
                "architecture": architecture, "os": "linux", "config": { "Labels": { "reference": reference } },
                "rootfs": { "type": "layers", "diff_ids": held.iter().map(|layer| layer.digest.to_string()).collect::<Vec<_>>() },
            });
            let config = Piece::json(config_type, &config);
            let manifest = json!({
                "schemaVersion": 2, "mediaType": manifest_type, "config": config.descriptor(), "layers": listed,
            });
            manifests.push((architecture, Piece::json(manifest_type, &manifest)));
            configs.push(config);
        }
        let index = (self.platforms > 0).then(|| {
            let entries: Vec<Value> = manifests
                .iter()
                .map(|(architecture, manifest)| {
                    let mut entry = manifest.descriptor();
                    entry["platform"] = json!({ "os": "linux", "architecture": architecture });
                    entry
                })
                .collect();
            Piece::json(index_type, &json!({ "schemaVersion": 2, "mediaType": index_type, "manifests": entries }))
        });
        let manifests: Vec<Piece> = manifests.into_iter().map(|(_, manifest)| manifest).collect();
        let top = index.unwrap_or_else(|| manifests[0].clone());
        Built { repository: repository.to_owned(), tag: tag.to_owned(), top, manifests, configs, layers: held, foreign }
    }
}

impl Piece {
    /// `bytes` as a blob or manifest.
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: Digest::of(&bytes), media_type: media_type.to_owned(), bytes }
    }

    fn json(media_type: &str, value: &Value) -> Self {
        Self::new(media_type, value.to_string())
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// How a manifest lists it.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest.to_string(), "size": self.size() })
    }
}

impl Built {
    /// The path of its tag.
    pub fn tag_path(&self) -> String {
        format!("/v2/{}/manifests/{}", self.repository, self.tag)
    }

    /// The path of one of its manifests.
    pub fn manifest_path(&self, manifest: &Piece) -> String {
        format!("/v2/{}/manifests/{}", self.repository, manifest.digest)
    }

    /// The path of one of its blobs.
    pub fn blob_path(&self, blob: &Piece) -> String {
        format!("/v2/{}/blobs/{}", self.repository, blob.digest)
    }

    /// Bytes of the configuration of the first platform and the layers: what one pull takes from the registry's blobs.
    pub fn blob_bytes(&self) -> u64 {
        self.configs[..1].iter().chain(&self.layers).map(Piece::size).sum()
    }
}

/// `size` bytes that look like noise, always the same for the same seed.
pub fn noise(seed: &str, size: u64) -> Bytes {
    let mut state =
        u64::from_le_bytes(*Digest::of(seed.as_bytes()).as_bytes().first_chunk().expect("32 bytes begin with 8"));
    // SplitMix64: one multiplication or two for each word is enough, as nobody attacks a test image.
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    });
    let size = usize::try_from(size).expect("a test image fits in memory");
    let mut bytes: Vec<u8> = words.take(size.div_ceil(8)).flatten().collect();
    bytes.truncate(size);
    bytes.into()
}
