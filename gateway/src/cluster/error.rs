//! Why the gateway cannot work with its cluster.

/// Why a gateway does not start in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nothing says where the API server is.
    #[error("neither a service account nor a kubeconfig says where the API server is: {0}")]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// TLS or the credentials cannot be set up.
    #[error("no client for the API server: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The gateway's own namespace is not known.
    #[error(
        "the gateway's own namespace, where its Secrets with keys are, is not known: set cluster.namespace or the environment's POD_NAMESPACE"
    )]
    Namespace,
}

/// Why a conversation with the API server broke off. It begins again by itself.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The call failed.
    #[error("{0}")]
    Call(#[source] Box<kube::Error>),
    /// Nothing came in time.
    #[error("no answer in time")]
    Silent,
    /// The connection ended in the middle of an answer.
    #[error("the connection broke: {0}")]
    Read(#[from] std::io::Error),
    /// An answer that cannot be read. Its words are not repeated, as keys may be among them.
    #[error("an answer that does not have its form (line {line}, column {column})")]
    Form {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// What was to be continued is too long ago: everything is listed again.
    #[error("what was to be continued is too long ago")]
    Expired,
    /// The API server ended the watch with an error.
    #[error("the API server says {code}: {message}")]
    Status {
        /// Its code, as HTTP has them.
        code: u16,
        /// Its words.
        message: String,
    },
}

impl From<kube::Error> for Broken {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 410 => Self::Expired,
            _ => Self::Call(Box::new(error)),
        }
    }
}

impl From<serde_json::Error> for Broken {
    fn from(error: serde_json::Error) -> Self {
        Self::Form {
            line: error.line(),
            column: error.column(),
        }
    }
}
