//! Keys that name files, and URLs that may hold passwords.

use std::path::{Path, PathBuf};

use scalekit_service::server_url::ServerUrl;

use super::error::ProfileError;
use super::layer::ServeTlsLayer;
use super::resolve::Resolver;
use super::setting::Setting;
use super::text;
use super::types::ServeTls;

impl Resolver<'_> {
    /// Relative to the file that names it; from the command line, to the current directory. Absolute, since the
    /// resolved profile is read from elsewhere.
    pub(super) fn file(
        &self,
        path: &[&str],
        setting: &Setting<String>,
    ) -> Result<Option<PathBuf>, ProfileError> {
        if setting.value().is_none() {
            return Ok(None);
        }
        let name = PathBuf::from(self.text(path, setting, text::path)?);
        let source = self.source_of(path).map(|index| &self.sources[index]);
        let directory =
            source.filter(|source| source.text.is_some()).and_then(|source| Path::new(&source.name).parent());
        let file = directory.map_or_else(|| name.clone(), |directory| directory.join(&name));
        std::path::absolute(&file).map(Some).map_err(|error| {
            self.error(path, format!("{}: {error}", file.display()), "name it from the root: /...")
        })
    }

    /// What is wrong with a URL is told without what comes before its @, which may be a password.
    pub(super) fn server_url(
        &self,
        path: &[&str],
        setting: &Setting<ServerUrl>,
        schemes: &[&str],
    ) -> Result<Option<ServerUrl>, ProfileError> {
        let Some(url) = setting.value() else { return Ok(None) };
        self.text(path, &Setting::To(url.expose().to_owned()), |text| text::url(text, schemes))?;
        Ok(Some(url.clone()))
    }

    pub(super) fn serve_tls(&self, layer: &ServeTlsLayer) -> Result<Option<ServeTls>, ProfileError> {
        let key = |key| ["deploy", "tls", key];
        match (self.file(&key("cert"), &layer.cert)?, self.file(&key("key"), &layer.key)?) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(ServeTls { cert, key })),
            (Some(_), None) => {
                let help = "set deploy.tls.key (--tls-key) to the file of the private key";
                Err(self.error(&key("cert"), "a certificate is of no use without its key", help))
            }
            (None, Some(_)) => {
                let help = "set deploy.tls.cert (--tls-cert) to the file of the certificate";
                Err(self.error(&key("key"), "a key is of no use without its certificate", help))
            }
        }
    }
}
