/** The tensors of a checkpoint in the form in which they cross to the addon. */
import { type NativeTensor, type NativeTensors, nativeDTypes } from './native'

/** Tensors that are packed before the event loop gets its turn: well under a millisecond. */
const SLICE = 1000

export async function packTensors(tensors: readonly NativeTensor[]): Promise<NativeTensors> {
  const n = tensors.length
  const files = new Uint32Array(n)
  const dtypes = new Uint8Array(n)
  const ranges = new Float64Array(2 * n)
  const shapes = new Float64Array(2 * n)
  const paths = new Map<string, number>()
  const names: string[] = []
  for (let i = 0; i < n; i++) {
    const { name, path, offset, bytes, dtype, shape } = tensors[i]!
    if (!paths.has(path)) paths.set(path, paths.size)
    names.push(name)
    files[i] = paths.get(path)!
    dtypes[i] = nativeDTypes.indexOf(dtype)
    ranges.set([offset, bytes], 2 * i)
    shapes.set([shape[0]!, shape[1] ?? 0], 2 * i)
    if (i % SLICE === SLICE - 1) await new Promise((resolve) => setImmediate(resolve))
  }
  return { names: names.join('\n'), paths: [...paths.keys()], files, dtypes, ranges, shapes }
}
