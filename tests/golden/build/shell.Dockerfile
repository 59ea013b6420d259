FROM BASE
SHELL ["/bin/sh","-ec"]
RUN echo a > /a
CMD echo $X
HEALTHCHECK --interval=5s --retries=2 CMD true
USER joe
ONBUILD RUN echo hi
MAINTAINER me
