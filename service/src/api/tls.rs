//! HTTPS: a certificate and its key from files, TLS 1.2 and 1.3, read again when the files change.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use super::reload::{self, Reload};
use crate::access::TlsFiles;

/// A long chain has some 20 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The only protocol here (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// The server's side of TLS.
pub(crate) struct Tls {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    certificate: Arc<Certificate>,
    pub(super) acceptor: TlsAcceptor,
}

/// The one certificate, whatever name the client asks for.
struct Certificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        output.write_str("Certificate")
    }
}

impl Tls {
    /// # Errors
    /// A file cannot be read or understood, or the key is not the certificate's.
    pub(crate) fn open(files: &TlsFiles) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let certificate = Arc::new(Certificate(RwLock::new(Arc::new(read(files, &provider)?))));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            files: files.clone(),
            provider,
            certificate,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }
}

impl Reload for Tls {
    fn files(&self) -> Vec<PathBuf> {
        vec![self.files.cert.clone(), self.files.key.clone()]
    }

    fn reload(&self) -> Result<(), String> {
        let new = Arc::new(read(&self.files, &self.provider)?);
        *self.certificate.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let TlsFiles { cert, key } = files;
    let (cert, key) = (cert.display(), key.display());
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&reload::read(&files.cert, MAX_FILE_BYTES)?).collect();
    let chain = chain.map_err(|error| format!("{cert} is not a PEM file of certificates: {error}"))?;
    if chain.is_empty() {
        return Err(format!(
            "there is no certificate in {cert}; expected PEM, `-----BEGIN CERTIFICATE-----`"
        ));
    }
    // The parser's own words are left out: they may quote the key.
    let private = PrivateKeyDer::from_pem_slice(&reload::read(&files.key, MAX_FILE_BYTES)?).map_err(|_| {
        format!("there is no private key in {key}; expected PEM, `-----BEGIN PRIVATE KEY-----`, without a password")
    })?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("the private key in {key} is not the one of the first certificate in {cert}")
        }
        other => format!("the certificate in {cert} and the key in {key} cannot be used: {other}"),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    /// A certificate for 127.0.0.1 that is its own authority, in `cert.pem` and `key.pem`.
    pub(in super::super) fn certificate(dir: &Path) -> TlsFiles {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn files_that_do_not_belong_together_or_are_none_are_refused() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (files, stranger) = (certificate(dir.path()), certificate(other.path()));
        let text = dir.path().join("text");
        std::fs::write(&text, "no PEM").unwrap();
        let broken = dir.path().join("broken");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let none = dir.path().join("none");
        for (cert, key, parts) in [
            (&files.cert, &stranger.key, ["is not the one", "key.pem"]),
            (&none, &files.key, ["cannot read", "none"]),
            (&files.cert, &none, ["cannot read", "none"]),
            (&text, &files.key, ["no certificate in", "text"]),
            (&files.cert, &text, ["no private key in", "text"]),
            (&broken, &files.key, ["cannot be used", "broken"]),
            (&files.key, &files.key, ["no certificate in", "key.pem"]),
        ] {
            let error = Tls::open(&TlsFiles { cert: cert.clone(), key: key.clone() }).err().unwrap();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        Tls::open(&files).unwrap();
    }

    #[test]
    fn a_new_certificate_takes_the_place_of_the_old_one_if_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::open(&certificate(dir.path())).unwrap();
        let shown = || tls.certificate.0.read().unwrap().cert.clone();
        let first = shown();
        let key = std::fs::read(&tls.files.key).unwrap();
        certificate(dir.path());
        let new_key = std::fs::read(&tls.files.key).unwrap();
        // Half of a rotation.
        std::fs::write(&tls.files.key, key).unwrap();
        assert!(tls.reload().unwrap_err().contains("is not the one"));
        assert_eq!(shown(), first);
        std::fs::write(&tls.files.key, new_key).unwrap();
        tls.reload().unwrap();
        assert_ne!(shown(), first);
    }
}
