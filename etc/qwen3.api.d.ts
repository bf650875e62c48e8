// The public declarations of the package, written by `npm run api -- --update`.

// ---- lib/errors.d.ts
/**
 * Every failure that the library reports is a {@link Qwen3Error}; its code is stable and documented in docs/errors.md.
 */
/** The registry of codes: what each one means, in one sentence. A test proves that docs and types agree with it. */
export declare const errorCodes: {
    readonly MODEL_NOT_FOUND: 'No model of that name or path; the message lists what was tried and near names.';
    readonly BAD_MODEL_FILE: 'A model file is damaged, truncated or contradicts itself; `subject` is the path or tensor.';
    readonly UNSUPPORTED: 'The file or option is valid but this version cannot honour it; `subject` names it.';
    readonly INVALID_ARGUMENT: 'An option or argument has the wrong type or range; the message says expected and received.';
    readonly OUT_OF_MEMORY: 'The model or its cache does not fit in memory; nothing was kept.';
    readonly CONTEXT_OVERFLOW: 'The prompt does not fit in the context; the message names both numbers.';
    readonly ABORTED: 'The call was cancelled by its signal, by leaving the loop, or because the model was closed.';
    readonly BUSY: 'The engine refuses more work now; try again later.';
    readonly CLOSED: 'The model was closed before the call.';
    readonly STREAM_CONSUMED: 'The stream has an iterator already; a stream can be iterated once.';
    readonly ADDON_NOT_FOUND: 'No native addon for this platform; the message says how to build it.';
    readonly INTERNAL: 'A defect of this library; please report it with the message.';
};
export type Qwen3ErrorCode = keyof typeof errorCodes;
/** The error class of the library. `code` is stable; `message` says what to do; `subject` is the path, field or option. */
export declare class Qwen3Error extends Error {
    readonly code: Qwen3ErrorCode;
    readonly subject?: string;
    constructor(code: Qwen3ErrorCode, message: string, options?: {
        subject?: string;
        cause?: unknown;
    });
}
/**
 * What a cancelled call rejects with: code `ABORTED`, `cause` the signal's reason, and the `name` that web APIs use
 * (`TimeoutError` when the signal timed out, else `AbortError`), so that existing handlers recognise it.
 */
export declare function abortedError(reason: unknown, message?: string): Qwen3Error;
/** Throws {@link abortedError} when the signal is aborted already. */
export declare function throwIfAborted(signal: AbortSignal | undefined): void;
/** How a value is shown in "expected / received" messages: short, on one line, and never the caller's data in full. */
export declare function received(value: unknown): string;

// ---- lib/experts.d.ts
/** How evenly a mixture of experts used its experts: from the rows that were routed to each since the model was loaded. */
export interface ExpertLoad {
    /** Rows routed to each expert, one array for every layer that has experts. */
    counts: Float64Array[];
    /** Of each of those layers: entropy of the experts' shares in nats; ln(experts) when all are used alike. 0 before the first row. */
    entropy: number[];
    /**
     * Of each of those layers: experts x the sum of squared shares, over everything that was run. It is the global-batch load-balance
     * measure of Qwen3's training (Qiu et al. 2025, experts x sum f_i p_i) with the measured share f_i in place of the router's mean
     * probability p_i: 1 when all experts are used alike, the number of experts when a single one is. 0 before the first row.
     */
    balance: number[];
}
/** `counts`: layer by layer, `experts` each. Layers without experts count nothing and are left out. */
export declare function expertLoad(counts: Float64Array, experts: number, moeLayers: Uint8Array): ExpertLoad;

// ---- lib/load.d.ts
import { Chat } from './chat';
import { type NativeModel } from './native';
import { Tokenizer } from './tokenizer';
import type { KvFormat, LoadOptions, ModelName, WeightFormat } from './types';
/** What a loaded model is and how it was set up. */
export interface ModelInfo {
    /** As given to load(). */
    name: string;
    architecture: 'qwen3' | 'qwen3_moe';
    parameters: number;
    vocabSize: number;
    /** Tokens per sequence, prompt and completion together. */
    contextLength: number;
    /** Context up to which positions are never rescaled. */
    nativeWindow: number;
    kvCacheBytes: number;
    maxSequences: number;
    weights: WeightFormat;
    embeddingWeights: WeightFormat;
    headWeights: WeightFormat;
    kvCache: KvFormat;
    device: string;
    /**
     * What became of the option `weightCache`. `mapped`: the weights are those of the file at `path`; `written`: they were
     * packed and written there for the next load; `failed`: they could not be written (a warning says why).
     */
    weightCache: {
        state: 'off' | 'mapped' | 'written' | 'failed';
        path?: string;
    };
    /** What its template can: `'hybrid'` switches thinking per request, `'none'` has no template. */
    thinking: 'hybrid' | 'always' | 'never' | 'none';
}
export interface LoadedModel {
    native: NativeModel;
    tokenizer: Tokenizer;
    chat: Chat;
    info: ModelInfo;
    /** Experts of a layer, and which layers have them. */
    experts: [number, Uint8Array];
}
export declare function loadModel(name: ModelName | URL, options: LoadOptions): Promise<LoadedModel>;

// ---- lib/model.d.ts
import { type ExpertLoad } from './experts';
import { type ModelInfo } from './load';
import type { Tokenizer } from './tokenizer';
import type { ChatMessage, ChatOptions, ChatStream, GenerateOptions, LoadOptions, ModelName, Tool, WeightFormat } from './types';
export type { ModelInfo } from './load';
/** What a model is doing, and what it has done since it was loaded. */
export interface ModelStats {
    /** Sequences in the current step, and those that wait for a place. */
    running: number;
    waiting: number;
    steps: number;
    promptTokens: number;
    cachedTokens: number;
    generatedTokens: number;
    /** Tokens that were drafted (option `speculation`), and how many of them were chosen. */
    draftTokens: number;
    acceptedTokens: number;
    /** Of the packed weights, and the formats that they are in. Norms are f32, a router of experts is bf16 or f32. */
    weightBytes: number;
    weightFormats: {
        weights: WeightFormat;
        embedding: WeightFormat;
        head: WeightFormat;
    };
    /** The paged cache; `cachedBlocks` hold prefixes that a later prompt can reuse and are free for others as well. */
    kvCache: {
        blockTokens: number;
        blockBytes: number;
        totalBlocks: number;
        freeBlocks: number;
        cachedBlocks: number;
    };
    /** How evenly a mixture of experts used its experts. */
    experts?: ExpertLoad;
}
export interface RenderOptions {
    thinking?: boolean;
    thinkingBudget?: number;
    tools?: Tool[];
}
/** A loaded Qwen3 model. Made by {@link Qwen3.load}. */
export declare class Qwen3 {
    #private;
    /** The model's tokenizer. */
    readonly tokenizer: Tokenizer;
    /** What was loaded, and the sizes that were chosen. */
    readonly info: Readonly<ModelInfo>;
    private constructor();
    /**
     * Loads `'nano'`, `'nano-moe'`, `'random:<row>'` or a folder (a path that begins with `./`, `../` or `/`, or a file URL).
     * Rejects with `MODEL_NOT_FOUND`, `BAD_MODEL_FILE`, `UNSUPPORTED`, `OUT_OF_MEMORY`, `INVALID_ARGUMENT`,
     * `ADDON_NOT_FOUND`, or `ABORTED` when the signal aborts.
     */
    static load(name: ModelName | URL, options?: LoadOptions): Promise<Qwen3>;
    /**
     * Answers a conversation; a string is one user message. Starts at once. Throws `INVALID_ARGUMENT` for bad messages or
     * options; later failures (`CONTEXT_OVERFLOW`, `ABORTED`, ...) come through the stream and its result().
     */
    chat(messages: string | ChatMessage[], options?: ChatOptions): ChatStream;
    /** Continues a text (in which the text of control tokens counts) or token ids, without a template. */
    generate(prompt: string | ArrayLike<number>, options?: GenerateOptions): ChatStream;
    /** The logits that follow `ids`: `[vocabSize]`. */
    logits(ids: ArrayLike<number>, options?: {
        signal?: AbortSignal;
    }): Promise<Float32Array>;
    /** The log-probability of each id after the first, given those before it: `[ids.length - 1]`. */
    score(ids: ArrayLike<number>, options?: {
        signal?: AbortSignal;
    }): Promise<Float32Array>;
    /** The prompt that chat() would use, as text. */
    renderChat(messages: string | ChatMessage[], options?: RenderOptions): string;
    stats(): ModelStats;
    /**
     * Ends what is under way with `ABORTED` and releases the memory that only this model holds. Later calls give `CLOSED`.
     * A process may exit without it.
     */
    close(): Promise<void>;
    [Symbol.asyncDispose](): Promise<void>;
}

// ---- lib/tokenizer/decode.d.ts
/** Which tokens a decoder leaves out. */
export interface DecodeOptions {
    /** Leave out the tokens that the tokenizer's files call special. Default false. */
    skipSpecial?: boolean;
}
/** Turns ids into text as they come. Never returns half a character; what is incomplete waits for the next push. */
export declare class StreamDecoder {
    private readonly vocabulary;
    private readonly skip;
    private bytes;
    private pending;
    /** The text that `ids` complete. Throws `INVALID_ARGUMENT` for an id beyond the vocabulary; nothing is consumed then. */
    push(ids: ArrayLike<number> | number): string;
    /** Ends the text: bytes that never became a character are returned as U+FFFD. The decoder can be used anew. */
    flush(): string;
    private append;
    private grow;
}

// ---- lib/tokenizer/tokenizer.d.ts
import { type DecodeOptions, StreamDecoder } from './decode';
import type { ByteTable } from './vocab';
/** Options of {@link Tokenizer.encode}. */
export interface EncodeOptions {
    /**
     * Whether the text of added tokens such as `<|im_end|>` or `<think>` becomes their ids. Default false: text of users
     * never turns into control tokens.
     */
    parseSpecial?: boolean;
    /**
     * With `parseSpecial`: stretches of the text that are plain all the same, as ascending pairs `[start, end, ...]` of
     * UTF-16 offsets. An added token that would touch one is not matched. The text is still encoded as one piece.
     */
    literal?: ArrayLike<number>;
}
/** A part of a text whose added tokens are matched or not; see {@link Tokenizer.encodeSegments}. */
export interface TextSegment {
    text: string;
    parseSpecial: boolean;
}
/**
 * Byte-level BPE as Qwen3 uses it: NFC, Qwen's split pattern, merges by rank. Equal, id for id, to the Rust
 * `tokenizers` package without post-processor, truncation and padding.
 */
export declare class Tokenizer {
    /** One above the highest token id. */
    readonly vocabSize: number;
    /** Ids below are accepted when decoding: at least `vocabSize`; those without a token decode to nothing. */
    readonly vocabLimit: number;
    private readonly vocabulary;
    private readonly encoder;
    private readonly added;
    private readonly special;
    private ids;
    private constructor();
    /**
     * Reads `tokenizer.json`, or `vocab.json` and `merges.txt` (with the added tokens of `tokenizer_config.json`), from a
     * model directory. Throws `MODEL_NOT_FOUND`, `BAD_MODEL_FILE` or `UNSUPPORTED`.
     */
    static load(directory: string | URL): Promise<Tokenizer>;
    /**
     * Makes a tokenizer of the parsed object of a `tokenizer.json`. `vocabLimit` is the number of rows of the model's
     * embedding (`vocab_size` of its config), which may exceed the tokens; `file` is named in errors.
     */
    static fromJson(json: unknown, options?: {
        vocabLimit?: number;
        file?: string;
    }): Tokenizer;
    /** The ids of a text. Lone surrogates are encoded as U+FFFD. Nothing is added before or after. */
    encode(text: string, options?: EncodeOptions): Int32Array;
    /** {@link encode} in slices of at most a millisecond, so that a long text does not block the event loop. */
    encodeAsync(text: string, options?: EncodeOptions & {
        signal?: AbortSignal;
    }): Promise<Int32Array>;
    /**
     * Encodes parts of one text, joined: only the parts with `parseSpecial` can yield added tokens, and an added token
     * that reaches into another part is not matched. Text that is contiguous is encoded as if it were one part.
     */
    encodeSegments(parts: readonly TextSegment[]): Int32Array;
    /** Number of ids of {@link encode}. */
    countTokens(text: string, options?: EncodeOptions): number;
    /** The text of ids; bytes that are not UTF-8 become U+FFFD. Throws `INVALID_ARGUMENT` for an id beyond the vocabulary. */
    decode(ids: ArrayLike<number>, options?: DecodeOptions): string;
    /** A decoder for ids that come one after another. */
    decoder(options?: DecodeOptions): StreamDecoder;
    /** The bytes of one token, as a copy. */
    idToBytes(id: number): Uint8Array;
    /** The token as vocabulary files write it (in the byte alphabet, `Ġthe`; added tokens as they are), or undefined. */
    idToToken(id: number): string | undefined;
    /** The id of a token as {@link idToToken} writes it, or undefined. */
    tokenToId(token: string): number | undefined;
    /** Whether the tokenizer's files call the token special: a control token that is no part of the readable text. */
    isSpecial(id: number): boolean;
    /** The added tokens, in order of id: control tokens, special or not. */
    addedTokens(): {
        id: number;
        content: string;
        special: boolean;
    }[];
    /** The bytes of all tokens; do not change them. */
    byteTable(): ByteTable;
    private hasToken;
}

// ---- lib/tokenizer/vocab.d.ts
/** The vocabulary as flat tables: the bytes of every token, and the merges in a hash table of token pairs. */
/** The bytes of all tokens, one after another: token `id` is `bytes[offsets[id], offsets[id + 1])`. */
export interface ByteTable {
    bytes: Uint8Array;
    /** [vocabSize + 1] */
    offsets: Uint32Array;
}
/** The rank of pairs that do not merge: above all ranks. */
export declare const NO_MERGE = 2147483647;
export declare class Vocabulary {
    /** One above the highest id. */
    readonly size: number;
    /** Ids from `size` to here are rows of the model without a token. */
    readonly limit: number;
    readonly table: ByteTable;
    /** 1 where the id has a token. [size] */
    readonly known: Uint8Array;
    /** Id of the token that is one byte. [256] */
    readonly byteToId: Int32Array;
    /** Open addressing over {@link hashPair}; the left id of a free slot is -1. [slots * 4] */
    private readonly mergeTable;
    private readonly mergeMask;
    /** Rank of the merge of two byte tokens, by `first << 8 | second`. [65536] */
    readonly bytePairRank: Int32Array<ArrayBuffer>;
    /** The id that a merge makes, by rank. [mergeCount] */
    readonly mergedId: Int32Array;
    /** Bit `right & 31` is set when the token merges with a right one of that kind: most look-ups end here. [size] */
    private readonly rightKinds;
    /** The same for the left ones of a right token. [size] */
    private readonly leftKinds;
    constructor(tokens: ByteTable & {
        known: Uint8Array;
    }, limit: number, byteToId: Int32Array, mergeCount: number);
    /** Adds a merge while the vocabulary is built. A pair that is listed twice keeps its last rank, as in the oracle. */
    addMerge(left: number, right: number, rank: number, merged: number): void;
    /** Fills {@link bytePairRank} when all merges are known. */
    indexBytePairs(): void;
    /** The rank of the merge of two tokens, or {@link NO_MERGE}. */
    mergeRank(left: number, right: number): number;
}

// ---- lib/tokenizer/index.d.ts
/** Qwen3's tokenizer: public names of this directory. */
export type { DecodeOptions, StreamDecoder } from './decode';
export { type EncodeOptions, type TextSegment, Tokenizer } from './tokenizer';
export type { ByteTable } from './vocab';

// ---- lib/types.d.ts
/** Public types of the API. */
import type { Qwen3Error } from './errors';
/** A built-in name, `random:<row>`, or a path that begins with `./`, `../`, `/` or is a file URL. */
export type ModelName = 'nano' | 'nano-moe' | (string & {});
/**
 * How matrices are kept in memory, in bits a weight: `'f32'` 32, `'bf16'` 16, `'int8'` 8.25 (groups of 64 with a scale),
 * `'int4'` 4.5 (groups of 32 with a scale), `'int4-offset'` 4.75 (groups of 32 with scale and offset: closer to the original
 * than `'int4'`). The integer formats are quantised while loading, from weights of any type.
 */
export type WeightFormat = 'f32' | 'bf16' | 'int8' | 'int4' | 'int4-offset';
/** How keys and values are kept: 4 bytes an element, 2, or 1 with an f32 scale for every position and head. */
export type KvFormat = 'f32' | 'bf16' | 'int8';
export interface LoadOptions {
    /**
     * `'auto'` (default): a GPU, where the CUDA library of this package is installed and a GPU can hold the model in the formats
     * asked for; else the CPU. `info.device` says which. `'cuda'` or `'cuda:<n>'`: that GPU. A forced device works or throws
     * `UNSUPPORTED`, with the reason. `qwen3 inspect --devices` lists what is there.
     */
    device?: 'auto' | 'cpu' | 'cuda' | `cuda:${number}` | (string & {});
    /**
     * Instruction set of the CPU kernels; default `'auto'`: the best that the machine has. A forced one works or throws
     * `UNSUPPORTED`. `qwen3 doctor` lists those of a machine.
     */
    isa?: 'auto' | 'scalar' | 'avx2' | 'avxvnni' | 'avx512' | 'avx512vnni' | 'avx512bf16' | 'amx' | (string & {});
    /**
     * What a token's bits depend on besides its own sequence. `'batch'` (default): on nothing else in the step, however many run
     * together; on a GPU a position may differ in its last bits between prefill and decode, so that an answer continued from the
     * prefix cache may differ from one that was computed anew. `'full'`: on that neither, slower on a GPU. The CPU is always `'full'`.
     */
    batchInvariance?: 'batch' | 'full';
    /** Format of the packed weights; `'auto'` (default) = bf16. */
    weights?: 'auto' | WeightFormat;
    /** Format of the embedding table; `'auto'` (default) = as `weights`. */
    embeddingWeights?: 'auto' | WeightFormat;
    /**
     * Format of the matrix that makes the logits; `'auto'` (default) = as `weights`. Models with tied embeddings keep one table
     * where both formats agree, else two.
     */
    headWeights?: 'auto' | WeightFormat;
    /**
     * Keeps the packed weights in a file and maps it at the next load: no packing, and processes share the memory. `true`:
     * under `$XDG_CACHE_HOME/qwen3/weights` (else `~/.cache/qwen3/weights`); a string: in that folder. Default false: nothing
     * is written. A file that is damaged or of another model, version or machine is written again; where it cannot be written
     * there is a warning and the model loads all the same. Do not cut short a file that is in use; deleting it is safe.
     */
    weightCache?: boolean | string;
    /**
     * Format of the KV cache; `'auto'` (default) = bf16 (f32 with f32 weights). `'int8'` takes about half of bf16's memory, and
     * decoding after a long context is faster; CPU only.
     */
    kvCache?: 'auto' | KvFormat;
    /** Tokens per sequence, prompt and completion together. Default: what fits, up to the model's window. */
    contextLength?: number;
    /** Worker threads of the CPU backend; default: physical cores. */
    threads?: number;
    /** Total bytes of the paged KV cache. */
    kvCacheBytes?: number;
    /** Sequences that run at once; more wait. */
    maxSequences?: number;
    /** Requests that may wait for a place; more are refused with `BUSY`. Default 65,536. */
    maxWaiting?: number;
    /** `'auto'`: YaRN per sequence, only for those beyond the native window; `'static'`: always; `'none'`: never. */
    rope?: 'auto' | 'static' | 'none';
    /** Context extension factor; default: contextLength / native window, at least 1. */
    yarnFactor?: number;
    /** What requests do that do not say so themselves; default `false`. See {@link GenerateOptions.speculation}. */
    speculation?: false | PromptLookupOptions;
    /** Seed of the weights of a `random:` model. */
    randomSeed?: number;
    onProgress?: (progress: {
        loadedBytes: number;
        totalBytes: number;
    }) => void;
    signal?: AbortSignal;
}
export interface ToolCall {
    id: string;
    name: string;
    arguments: Record<string, unknown>;
}
/** A message in OpenAI's shape. `reasoning_content` carries an assistant turn's thinking. */
export interface ChatMessage {
    role: 'system' | 'developer' | 'user' | 'assistant' | 'tool';
    content?: string | null | {
        type: 'text';
        text: string;
    }[];
    reasoning_content?: string | null;
    tool_calls?: {
        id?: string;
        type?: 'function';
        function: {
            name: string;
            arguments: string | Record<string, unknown>;
        };
    }[];
    tool_call_id?: string;
    name?: string;
}
/** A tool in OpenAI's shape. */
export interface Tool {
    type: 'function';
    function: {
        name: string;
        description?: string;
        parameters?: Record<string, unknown>;
        strict?: boolean;
    };
}
/**
 * Prompt lookup: where the last tokens stood before, in the prompt or the output, the engine drafts the tokens that followed
 * there and checks them all in one step. It pays where an answer repeats the prompt or itself (edits of code, quotes,
 * tables, working in steps); elsewhere the engine soon leaves it off by itself.
 *
 * The output is the same with and without it, token for token, also when sampling: a draft token stands only where it is
 * the one that the seed draws. Only time changes, and `usage.draftTokens` with it.
 */
export interface PromptLookupOptions {
    type: 'prompt-lookup';
    /** Most tokens drafted for one step, 1 to 64; default 16. The engine drafts as many as its step times say will pay. */
    maxDraft?: number;
    /** Fewest tokens that must have stood before, 1 to 16; default 2. */
    minNgram?: number;
    /** Most tokens that are looked up, minNgram to 16; default 4. The longest match counts, then the most recent. */
    maxNgram?: number;
}
export interface GenerateOptions {
    /** Most generated tokens; default: the remaining context. */
    maxTokens?: number;
    temperature?: number;
    topP?: number;
    topK?: number;
    minP?: number;
    presencePenalty?: number;
    frequencyPenalty?: number;
    repetitionPenalty?: number;
    /** Token id or exact token text -> added to its logit. */
    logitBias?: Record<number, number>;
    /** Default: random, and returned in the result. */
    seed?: number;
    /** Stop strings, matched in the answer only; not part of the text. */
    stop?: string | string[];
    /** true: log-probability of each token; n: with n alternatives. */
    logprobs?: boolean | number;
    ignoreEos?: boolean;
    /** Drafts of the next tokens, which change the speed and nothing else; `false`: none. Default: the model's load option. */
    speculation?: false | PromptLookupOptions;
    signal?: AbortSignal;
}
export interface ChatOptions extends GenerateOptions {
    /** Default: true where the template can. */
    thinking?: boolean;
    /** Most tokens of thinking; 0 = no thinking; default unlimited. */
    thinkingBudget?: number;
    thinkingDeadlineMs?: number;
    /** Tokens kept for the answer out of maxTokens or the context. */
    answerReserve?: number;
    /** End thinking when a cycle of tokens repeats three times. Default true. */
    loopBreaker?: boolean;
    /** Within the last tenth of the budget end at the last line or sentence that is likely to fit. Default true. */
    softLanding?: boolean;
    tools?: Tool[];
}
export type FinishReason = 'stop' | 'length' | 'toolCalls';
export type ThinkingStop = 'natural' | 'budget' | 'deadline' | 'reserve' | 'loop' | 'requested' | 'unfinished';
export interface Usage {
    promptTokens: number;
    cachedTokens: number;
    thinkingTokens: number;
    answerTokens: number;
    toolCallTokens: number;
    forcedTokens: number;
    /** thinking + answer + toolCall + forced. */
    completionTokens: number;
    /** Tokens that were drafted (option `speculation`), and how many of them became part of the completion. */
    draftTokens: number;
    acceptedTokens: number;
    timings: {
        queueMs: number;
        prefillMs: number;
        firstTokenMs: number;
        decodeMs: number;
        rescaleMs: number;
    };
}
export interface TokenLogprob {
    id: number;
    token: string;
    logprob: number;
    /**
     * Which part of the output the token's text belongs to. `control`: none; tags, end tokens, the blank line after
     * `</think>`, and what a stop string cut off.
     */
    segment: 'thinking' | 'text' | 'toolCall' | 'control';
    top: {
        id: number;
        token: string;
        logprob: number;
    }[];
}
export interface ChatResult {
    thinking: string;
    text: string;
    toolCalls: ToolCall[];
    ids: Int32Array;
    /** The next turn: `messages.push(result.message)`. */
    message: ChatMessage;
    seed: number;
    stopSequence: string | null;
    finishReason: FinishReason;
    /** null when the request did not think. */
    thinkingStop: ThinkingStop | null;
    usage: Usage;
    /** With the option `logprobs`: one entry for each of `ids`, in order. Forced tokens have log-probability 0. */
    logprobs?: TokenLogprob[];
}
export type ChatEvent = {
    type: 'thinking' | 'text';
    text: string;
    ids: Int32Array;
} | {
    type: 'toolCallDelta';
    index: number;
    id?: string;
    name?: string;
    argumentsDelta: string;
} | {
    type: 'toolCall';
    index: number;
    call: ToolCall;
} | {
    type: 'done';
    result: ChatResult;
};
/** What an aborted stream rejects with: name `AbortError` or `TimeoutError`, code `ABORTED`, the result so far. */
export interface AbortedError extends Qwen3Error {
    code: 'ABORTED';
    partial: ChatResult;
}
/** Starts at once, consumed or not. Not thenable. */
export interface ChatStream extends AsyncIterable<ChatEvent> {
    /** Always the same promise; never causes an unhandledRejection. */
    result(): Promise<ChatResult>;
    /** Ends the thinking now: the wrap-up follows, then the answer. No effect outside thinking. */
    endThinking(): void;
    /**
     * The thinking budget from now on. Called right after chat(), before anything is awaited, it holds from the first token;
     * later, what has been thought meanwhile counts and stays.
     */
    setThinkingBudget(tokens: number): void;
    abort(reason?: unknown): void;
}

// ---- lib/index.d.ts
/// <reference lib="esnext.disposable" preserve="true" />
/** The public API. */
export { Qwen3Error, type Qwen3ErrorCode } from './errors';
export type { ExpertLoad } from './experts';
export { type ModelInfo, type ModelStats, Qwen3, type RenderOptions } from './model';
export { type DecodeOptions, type EncodeOptions, type StreamDecoder, Tokenizer } from './tokenizer';
export type { AbortedError, ChatEvent, ChatMessage, ChatOptions, ChatResult, ChatStream, FinishReason, GenerateOptions, KvFormat, LoadOptions, ModelName, PromptLookupOptions, ThinkingStop, TokenLogprob, Tool, ToolCall, Usage, WeightFormat, } from './types';
