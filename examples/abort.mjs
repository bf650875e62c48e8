// An AbortSignal stops a request within one step, while the prompt is read as well. The error holds what was said until then.
import { Qwen3 } from 'qwen3'

const model = await Qwen3.load('nano')
try {
  const stream = model.chat('What is 12+30-7?', { ignoreEos: true, signal: AbortSignal.timeout(100) })
  await stream.result()
} catch (error) {
  if (error.code !== 'ABORTED') throw error
  console.log(`${error.name}: ${error.partial.ids.length} tokens until then`)
} finally {
  await model.close()
}
