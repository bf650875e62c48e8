// Requests that run together share every step of the engine; each one's answer is the same as if it ran alone.
import { Qwen3 } from 'qwen3'

const model = await Qwen3.load('nano', { maxSequences: 16 })
try {
  const questions = Array.from({ length: 16 }, (_, index) => `What is ${10 + index} + ${90 - index}?`)
  const begin = performance.now()
  const results = await Promise.all(questions.map((question) => model.chat(question, { seed: 1 }).result()))
  const seconds = (performance.now() - begin) / 1000
  const tokens = results.reduce((sum, { usage }) => sum + usage.completionTokens, 0)
  console.log(`${results.length} answers, ${(tokens / seconds).toFixed(0)} tokens/s together`)

  const alone = await model.chat(questions[3], { seed: 1 }).result()
  console.log('the same alone:', alone.ids.join() === results[3].ids.join())
} finally {
  await model.close()
}
