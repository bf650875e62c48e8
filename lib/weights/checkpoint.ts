import { Qwen3Error, throwIfAborted } from '../errors'
import type { FileStamp, ModelDirectory } from './files'
import { parseJsonObject } from './json'
import { MAX_HEADER_BYTES, readSafetensorsHeader } from './safetensors'
import type { LocatedTensor } from './tensors'

const SINGLE = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'
const MAX_SHARDS = 10_000

export interface Checkpoint {
  tensors: Map<string, LocatedTensor>
  /** Everything that was read, the index included. */
  files: FileStamp[]
  /** Bytes of the weight files. */
  fileBytes: number
}

/**
 * Reads the headers of `model.safetensors`, or of every shard that `model.safetensors.index.json` names. The index and
 * the shards must tell the same story: each tensor lies in the shard that the index names, and in no other.
 * A folder with both files is loaded from the single one, as other readers do.
 */
export async function readCheckpoint(directory: ModelDirectory, signal?: AbortSignal): Promise<Checkpoint> {
  const checkpoint: Checkpoint = { tensors: new Map(), files: [], fileBytes: 0 }
  if (await readShard(directory, SINGLE, checkpoint)) return checkpoint
  const index = await directory.readText(INDEX, MAX_HEADER_BYTES)
  if (index === undefined) {
    throw new Qwen3Error('BAD_MODEL_FILE', `${directory.root}: neither ${SINGLE} nor ${INDEX} is there.`, {
      subject: directory.root,
    })
  }
  const shardOf = await readIndex(index.text, index.stamp.path)
  const shards = new Set(shardOf.values())
  if (shards.size > MAX_SHARDS)
    throw bad(index.stamp.path, `names ${shards.size} shards; at most ${MAX_SHARDS} are read`)
  for (const shard of shards) {
    throwIfAborted(signal)
    if (!(await readShard(directory, shard, checkpoint, shardOf))) {
      throw bad(index.stamp.path, `names the shard ${JSON.stringify(shard.slice(0, 200))}, which is not there`, shard)
    }
  }
  for (const [name, shard] of shardOf) {
    if (!checkpoint.tensors.has(name))
      throw bad(index.stamp.path, `tensor ${name.slice(0, 200)} is not in ${shard.slice(0, 200)}`, name)
  }
  checkpoint.files.push(index.stamp)
  return checkpoint
}

async function readIndex(text: string, path: string): Promise<Map<string, string>> {
  const map = (await parseJsonObject(text, path)).weight_map
  if (typeof map !== 'object' || map === null || Array.isArray(map)) throw bad(path, 'weight_map must be an object')
  const shardOf = new Map<string, string>()
  for (const name of Object.keys(map)) {
    const shard = map[name]
    if (typeof shard !== 'string' || shard === '')
      throw bad(path, `tensor ${name.slice(0, 200)}: the shard must be a file name`, name)
    if (!shard.endsWith('.safetensors'))
      throw bad(
        path,
        `tensor ${name.slice(0, 200)}: ${JSON.stringify(shard.slice(0, 200))} is not a .safetensors file`,
        name,
      )
    shardOf.set(name, shard)
  }
  return shardOf
}

async function readShard(
  directory: ModelDirectory,
  name: string,
  into: Checkpoint,
  shardOf?: Map<string, string>,
): Promise<boolean> {
  const opened = await directory.open(name)
  if (opened === undefined) return false
  const { handle, stamp } = opened
  try {
    for (const tensor of await readSafetensorsHeader(handle, stamp)) {
      const owner = shardOf?.get(tensor.name)
      if (shardOf !== undefined && owner !== name) {
        throw bad(
          stamp.path,
          `tensor ${tensor.name.slice(0, 200)} is here, but the index ${owner === undefined ? 'does not name it' : `says ${owner.slice(0, 200)}`}`,
          tensor.name,
        )
      }
      into.tensors.set(tensor.name, { ...tensor, path: stamp.path })
    }
    into.files.push(stamp)
    into.fileBytes += stamp.size
    return true
  } finally {
    await handle.close()
  }
}

function bad(path: string, problem: string, subject = path): Qwen3Error {
  return new Qwen3Error('BAD_MODEL_FILE', `${path}: ${problem}.`, { subject: subject.slice(0, 300) })
}
