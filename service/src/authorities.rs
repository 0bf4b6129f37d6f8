//! Certificate authorities of one's own, which Redis and MongoDB are trusted by.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The whole of Mozilla's list is a fifth of it.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A PEM file of certificates, trusted in place of the public authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    file: PathBuf,
    pub(crate) pem: Vec<u8>,
}

impl Authorities {
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// # Errors
    /// The file cannot be read, or a certificate in it cannot be used, or there is none.
    pub fn read(file: &Path) -> Result<Self, String> {
        let shown = file.display();
        let pem = crate::api::reload::read(file, MAX_FILE_BYTES)?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate =
                certificate.map_err(|error| format!("{shown} is not a PEM file of certificates: {error}"))?;
            roots
                .add(certificate)
                .map_err(|error| format!("a certificate in {shown} cannot be used: {error}"))?;
        }
        if roots.is_empty() {
            return Err(format!(
                "there is no certificate in {shown}; expected PEM, `-----BEGIN CERTIFICATE-----`"
            ));
        }
        Ok(Self { file: file.to_owned(), pem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let block =
            |inner: &str| format!("-----BEGIN CERTIFICATE-----\n{inner}\n-----END CERTIFICATE-----\n");
        for (text, part) in [
            (String::new(), "no certificate"),
            ("text".to_owned(), "no certificate"),
            (block("AAAA"), "cannot be used"),
            (block("!"), "not a PEM file"),
        ] {
            std::fs::write(&file, &text).unwrap();
            let error = Authorities::read(&file).unwrap_err();
            assert!(error.contains(part) && error.contains("ca.pem"), "{text:?}: {error}");
        }
        assert!(Authorities::read(&dir.path().join("none")).unwrap_err().contains("cannot read"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&file, made.cert.pem()).unwrap();
        assert_eq!(Authorities::read(&file).unwrap().pem, made.cert.pem().into_bytes());
    }
}
