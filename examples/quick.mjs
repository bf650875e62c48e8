// The shortest program: load, ask, print.
import { Qwen3 } from 'qwen3'

const model = await Qwen3.load('nano') // or a folder: './Qwen3-0.6B'
try {
  const { text } = await model.chat('What is 12+30-7?', { seed: 1 }).result()
  console.log(text)
} finally {
  await model.close()
}
