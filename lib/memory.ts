/** How much of the machine a model may take: decided before a byte of it is read, so that the machine never swaps. */
import { Qwen3Error } from './errors'

/** Tokens of one block of the paged cache; kBlockSize in native/ops/step.h. */
export const BLOCK_TOKENS = 64

/** Full contexts that the cache is made for when nothing is said: shorter sequences share it, and prefixes stay in it. */
const DEFAULT_CONTEXTS = 8
/** Share of the memory left beside the weights that those may take; a single context may take more. */
const POOL_SHARE = 0.25
const SINGLE_CONTEXT_SHARE = 0.8
/** Left to activations, the tokenizer and everybody else. */
const HEADROOM_SHARE = 0.1
const HEADROOM_MOST = 256 * 2 ** 20
/** A context that is worth loading a model for. */
const LEAST_CONTEXT = 256

export interface MemoryRequest {
  name: string
  /** Bytes of the packed weights, 0 when they are in memory already. */
  weightBytes: number
  /** Bytes of one block of keys and values, all layers. */
  blockBytes: number
  availableBytes: number
  /** Longest context without being asked for more. */
  window: number
  contextLength?: number
  kvCacheBytes?: number
}

export interface MemoryPlan {
  contextLength: number
  kvCacheBytes: number
}

/** One block more than the context: a shared prefix that ends inside a block is copied into it. */
const blocksOf = (tokens: number) => Math.ceil(tokens / BLOCK_TOKENS) + 1

/** Throws `OUT_OF_MEMORY` when the weights and the least cache asked for do not fit, `INVALID_ARGUMENT` when the options contradict each other. */
export function planMemory(request: MemoryRequest): MemoryPlan {
  const { weightBytes, blockBytes, availableBytes, window } = request
  const headroom = Math.min(HEADROOM_MOST, availableBytes * HEADROOM_SHARE)
  const left = availableBytes - headroom - weightBytes
  const contextLength = request.contextLength ?? defaultContext(request, left)
  const least = blocksOf(contextLength) * blockBytes
  if (request.kvCacheBytes !== undefined && request.kvCacheBytes < least) {
    throw new Qwen3Error(
      'INVALID_ARGUMENT',
      `kvCacheBytes: expected at least ${least} bytes for a contextLength of ${contextLength}, received ${request.kvCacheBytes}.`,
      { subject: 'kvCacheBytes' },
    )
  }
  const most = Math.max(least, Math.floor((left * POOL_SHARE) / blockBytes) * blockBytes)
  const wanted = blocksOf(contextLength * DEFAULT_CONTEXTS) * blockBytes
  const kvCacheBytes = request.kvCacheBytes ?? Math.min(wanted, most)
  if (weightBytes + kvCacheBytes + headroom > availableBytes) {
    const smaller =
      contextLength > Math.min(window, LEAST_CONTEXT) ? ', or a smaller contextLength or kvCacheBytes' : ''
    throw new Qwen3Error(
      'OUT_OF_MEMORY',
      `${request.name} needs ${megabytes(weightBytes)} for weights and ${megabytes(kvCacheBytes)} for its KV cache of ${contextLength} tokens; ${megabytes(availableBytes)} of memory are available. Free memory, choose a smaller model${smaller}.`,
      { subject: request.name },
    )
  }
  return { contextLength, kvCacheBytes }
}

/** The whole window if one such context fits, else as much as does. */
function defaultContext({ window, blockBytes, kvCacheBytes }: MemoryRequest, left: number): number {
  const bytes = kvCacheBytes ?? left * SINGLE_CONTEXT_SHARE
  const tokens = (Math.floor(bytes / blockBytes) - 1) * BLOCK_TOKENS
  return Math.min(window, Math.max(LEAST_CONTEXT, tokens))
}

const megabytes = (bytes: number) => `${Math.ceil(bytes / 1e6).toLocaleString('en-US')} MB`
