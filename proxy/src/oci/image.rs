//! An image as people name it: `docker.io/library/debian:12`, `debian`, `registry.example/app@sha256:…`.

use std::{fmt, str::FromStr};

use waylay_certs::RegistryName;

use super::{
    Digest,
    repository::{Repository, Tag},
};

/// An image's name, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The host that serves its pulls, which is another one than people write for Docker Hub.
    pub registry: RegistryName,
    /// Its repository.
    pub repository: Repository,
    /// Which of its images.
    pub reference: Reference,
    whole: String,
}

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The one that a tag means.
    Tag(Tag),
    /// This one.
    Digest(Digest),
}

/// What is no image's name.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no image, such as docker.io/library/debian:12 or registry.example/app@sha256:… (64 hexadecimal digits)"
)]
pub struct BadImage(String);

impl FromStr for ImageName {
    type Err = BadImage;

    /// Fills in what people leave out: `docker.io`, `library/` and `latest`. With a tag and a digest, the digest counts.
    fn from_str(text: &str) -> Result<Self, BadImage> {
        let bad = || BadImage(text.to_owned());
        let image: oci_spec::distribution::Reference = text.parse().map_err(|_| bad())?;
        let reference = match (image.digest(), image.tag()) {
            (Some(digest), _) => Reference::Digest(digest.parse().map_err(|_| bad())?),
            (None, tag) => Reference::Tag(tag.unwrap_or("latest").parse().map_err(|_| bad())?),
        };
        Ok(Self {
            registry: image.registry().parse().map_err(|_| bad())?,
            repository: image.repository().parse().map_err(|_| bad())?,
            whole: match &reference {
                Reference::Tag(tag) => format!("{}/{}:{tag}", image.registry(), image.repository()),
                Reference::Digest(digest) => format!("{}/{}@{digest}", image.registry(), image.repository()),
            },
            reference,
        })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_leave_out_is_filled_in() {
        let hex = "a".repeat(64);
        for (text, whole, registry) in [
            ("debian", "docker.io/library/debian:latest".to_owned(), "registry-1.docker.io"),
            ("r.test:5000/a/b:1", "r.test:5000/a/b:1".to_owned(), "r.test:5000"),
            (&format!("r.test/a:1@sha256:{hex}"), format!("r.test/a@sha256:{hex}"), "r.test"),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!((name.to_string(), name.registry.to_string()), (whole.clone(), registry.to_owned()));
            assert_eq!(whole.parse::<ImageName>().unwrap(), name);
        }
        for bad in ["", "r.test/A", "r.test/a:", "r.test/a@sha512:00", "10.0.0.1:5000/a", "r.test/../a:1"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }
}
