/** Loading a model for a command: progress for people, the note about nano, and Ctrl-C. */
import { Qwen3 } from '../../lib/index'
import { type LoadFlags, loadOptions } from './flags'
import { styled } from './terminal'

const nanoNote = (model: string) =>
  `Note: ${model} is a tiny demo model that ships with qwen3. It knows arithmetic in a few languages and nothing else.\n` +
  '      For a real model, download one, e.g. https://huggingface.co/Qwen/Qwen3-0.6B, and pass --model ./Qwen3-0.6B\n'

/** Loads `flags.model`; the caller closes it. `quiet` leaves out the note about nano. */
export async function loadModel(
  flags: LoadFlags,
  { signal, quiet = false }: { signal?: AbortSignal; quiet?: boolean },
) {
  if (!quiet && (flags.model === 'nano' || flags.model === 'nano-moe'))
    process.stderr.write(styled(process.stderr, 'dim', nanoNote(flags.model)))
  const progress = process.stderr.isTTY ? progressLine() : undefined
  try {
    return await Qwen3.load(flags.model, { ...loadOptions(flags), onProgress: progress?.update, signal })
  } finally {
    progress?.clear()
  }
}

/** One line on stderr that is rewritten; it appears only when loading takes longer than a moment. */
function progressLine() {
  const start = performance.now()
  let shown = 0
  return {
    update({ loadedBytes, totalBytes }: { loadedBytes: number; totalBytes: number }) {
      const now = performance.now()
      if (now - start < 300 || now - shown < 100) return
      shown = now
      const percent = Math.floor((100 * loadedBytes) / Math.max(1, totalBytes))
      process.stderr.write(`\r\x1b[Kloading ${percent}% of ${(totalBytes / 1e6).toFixed(0)} MB`)
    },
    clear() {
      if (shown > 0) process.stderr.write('\r\x1b[K')
    },
  }
}
