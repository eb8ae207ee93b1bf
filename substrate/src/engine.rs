//! The seam between the pod and whatever multiplies the matrices.
//!
//! An engine holds one model. It starts any number of generations, each with a position and a cache of its own; a
//! generation is fed token ids and answers with the next token's logits and the experts that it used. No type of a
//! tensor library appears here, so that another engine can stand behind the same trait.

use std::path::PathBuf;

pub use halo_receipts::experts::ExpertSet;

/// One loaded model, shared by every generation.
pub trait Engine: Send + Sync {
    /// What was loaded.
    fn info(&self) -> &ModelInfo;

    /// How its weights are stored, and by what they are multiplied.
    fn kernels(&self) -> Vec<Kernel>;

    /// Starts a generation at position 0 with an empty cache.
    ///
    /// # Errors
    /// When the engine cannot hold another generation.
    fn start(&self) -> Result<Box<dyn Generation>, EngineError>;
}

/// A way in which weights are stored, and what multiplies them. Both are of a few words that the code knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// The form of the weights, such as `Q8_0`.
    pub stored: &'static str,
    /// The kernels: `portable`, or the instructions that they use.
    pub path: &'static str,
}

/// One sequence of tokens being extended.
pub trait Generation: Send {
    /// Appends `tokens` and returns the logits of the token after the last of them.
    ///
    /// Feeding a prompt in one call, in several, or token by token gives the same logits within rounding. A refused
    /// call leaves the position where it was.
    ///
    /// # Errors
    /// [`EngineError::NoTokens`], [`EngineError::UnknownToken`], [`EngineError::ContextFull`], or a failed computation.
    fn forward(&mut self, tokens: &[u32]) -> Result<Step, EngineError>;

    /// Number of tokens fed so far.
    fn position(&self) -> usize;
}

/// What one call of [`Generation::forward`] gives.
#[derive(Debug, Clone)]
pub struct Step {
    /// One score for each token id below [`ModelInfo::vocab`], not normalised.
    pub logits: Vec<f32>,
    /// The experts that at least one of the fed tokens chose, by layer. A layer without experts stays empty.
    pub active: ExpertSet,
    /// The experts of `active` that no generation had used since the weights were loaded.
    pub loaded: ExpertSet,
}

/// The facts about a model that its users and receipts need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Name of the folder or file (a GGUF file's `general.name` if it has one).
    pub name: String,
    /// Format and stored types in words, such as `safetensors BF16`.
    pub format: String,
    /// Decoder layers.
    pub layers: usize,
    /// Routed experts in one layer.
    pub experts: usize,
    /// Experts that one token uses in one layer.
    pub experts_per_token: usize,
    /// Rows of the embedding: token ids are below it.
    pub vocab: usize,
    /// Tokens that one generation may hold, prompt included.
    pub context_limit: usize,
    /// Parameters of all tensors together.
    pub parameters: u64,
    /// SHA-256 of the text that `sha256sum` prints for the files the engine read, sorted by file name.
    pub weights_digest: [u8; 32],
    /// Ids after which the model has nothing more to say, ascending.
    pub stop_tokens: Vec<u32>,
}

/// Why a model cannot be loaded or a step not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file cannot be opened or read.
    #[error("{}: cannot read: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// A file is not in the format that its place or name promises.
    #[error("{}: {what}: expected {expected}, found {found}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// The part of the file.
        what: String,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A file ends too early.
    #[error("{}: truncated: {what} needs {expected} bytes, the file has {found}", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// What reaches beyond the end.
        what: String,
        /// Bytes needed.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The model is of a kind that this engine does not run.
    #[error("{}: {field}: expected {expected}, found {found}: this engine runs Qwen3-MoE only as stated", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The setting.
        field: String,
        /// What the engine supports.
        expected: String,
        /// What the model asks for.
        found: String,
    },
    /// A tensor that the configuration calls for is not there.
    #[error("{}: missing tensor {tensor} (expected shape {expected:?})", file.display())]
    MissingTensor {
        /// The file in which it should be.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// The shape that the configuration gives it.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration gives it.
    #[error("{}: tensor {tensor}: expected shape {expected:?}, found {found:?}", file.display())]
    TensorShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the configuration gives it.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type that cannot be read, or cannot hold its rows.
    #[error("{}: tensor {tensor}: expected type {expected}, found {found}", file.display())]
    TensorType {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The types that can be read.
        expected: String,
        /// The type in the file.
        found: String,
    },
    /// A tensor that the architecture does not have: the file is of another model.
    #[error("{}: unexpected tensor {tensor}: Qwen3-MoE with this configuration has none of that name", file.display())]
    UnexpectedTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A weight is not a number.
    #[error("{}: tensor {tensor}: value {index} is {value}", file.display())]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the first such value.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// The tokenizer refuses a text.
    #[error("{}: cannot encode the text: {message}", file.display())]
    Encode {
        /// The tokenizer's file.
        file: PathBuf,
        /// What it says.
        message: String,
    },
    /// The chat template cannot be read or refuses the messages.
    #[error("{}: chat template: {message}", file.display())]
    Template {
        /// The file that holds it.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A generation was fed nothing.
    #[error("no tokens: a step needs at least one")]
    NoTokens,
    /// A token id that the model has no embedding for.
    #[error("token id {token} is not below the vocabulary size {vocab}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// The model's vocabulary size.
        vocab: usize,
    },
    /// The generation has no room for more tokens.
    #[error(
        "context full: {position} tokens held, {requested} more asked for, the limit is {limit}"
    )]
    ContextFull {
        /// Tokens held.
        position: usize,
        /// Tokens to be added.
        requested: usize,
        /// The model's limit.
        limit: usize,
    },
    /// The computation failed.
    #[error("computation failed in {place}: {message}")]
    Compute {
        /// The part of the model.
        place: String,
        /// What the tensor library says.
        message: String,
    },
}
